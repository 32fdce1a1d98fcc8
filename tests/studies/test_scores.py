"""What a report computes of a study, however often it asks."""

import dataclasses

from segmamba.studies.scores import case_scores, seed_scores, shared_cases
from tests.studies.synthetic import synthetic_study


def test_scores_are_computed_once_for_a_study_and_anew_for_a_changed_one():
    study = synthetic_study({"a": 0.0, "b": 0.01}, seeds=2, cases=3)
    assert case_scores(study, "a", "dice_WT") is case_scores(study, "a", "dice_WT")
    less = dataclasses.replace(study, trials=study.trials[1:])
    assert set(seed_scores(study, "a", "dice_WT")) == {0, 1}
    assert set(seed_scores(less, "a", "dice_WT")) == {1}


def test_a_case_that_one_trial_lacks_is_shared_by_none_but_by_other_seeds_of_other_splits():
    study = synthetic_study({"a": 0.0, "b": 0.01}, seeds=2, cases=3)
    first, *others = study.trials
    lacking = dataclasses.replace(first, test_cases=first.test_cases[1:])
    study = dataclasses.replace(study, trials=(lacking, *others))
    of_all, of_two = study.data.test, {row["case"] for row in lacking.test_cases}
    assert shared_cases(study, "dice_WT") == {0: of_two, 1: of_two}
    varied = dataclasses.replace(study, config=study.config | {"data.split_by_seed": True})
    assert shared_cases(varied, "dice_WT") == {0: of_two, 1: set(of_all)}
