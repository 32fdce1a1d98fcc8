import dataclasses

import numpy as np
import pytest
from scipy import stats

from segmamba.studies.by_seed import SEEDS_DECIDE
from segmamba.studies.contrasts import difference
from tests.studies.synthetic import synthetic_study


def varied(study, tested=10):
    """The study as if each seed had tested other patients, overlapping with those of the next."""
    trials = tuple(
        dataclasses.replace(t, test_cases=t.test_cases[t.seed * 5 : t.seed * 5 + tested])
        for t in study.trials
    )
    return dataclasses.replace(
        study, trials=trials, config=study.config | {"data.split_by_seed": True}
    )


def test_each_seed_is_paired_on_its_own_test_set_and_the_t_interval_is_over_seeds():
    study = varied(synthetic_study({"a": 0.0, "b": 0.02}, seeds=5, cases=40))
    result = difference(study, "b", "a", "WT")
    rows = {(t.arm, t.seed): [row["dice_WT"] for row in t.test_cases] for t in study.trials}
    means = [np.mean(np.subtract(rows["b", seed], rows["a", seed])) for seed in range(5)]
    assert result.seed_differences == pytest.approx(means)
    assert result.mean == pytest.approx(np.mean(means))
    low, high = stats.t.interval(0.95, 4, np.mean(means), stats.sem(means))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert result.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert len(result.cases) == 30 == len(result.patient_differences)
    assert SEEDS_DECIDE in result.notes


def test_test_sets_without_a_common_patient_are_compared_too():
    study = varied(synthetic_study({"a": 0.0, "b": 0.02}, seeds=4, cases=40), tested=5)
    assert difference(study, "b", "a", "WT").seeds == (0, 1, 2, 3)


def test_seeds_with_the_same_test_patients_are_crossed_with_them():
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=5, cases=40)
    config = study.config | {"data.split_by_seed": True}
    assert not study.test_sets_vary
    assert dataclasses.replace(study, config=config).test_sets_vary
    assert not dataclasses.replace(study, config=config, folds=(0, 1)).test_sets_vary
    named = config | {"data.splits_file": "splits_final.json"}
    assert not dataclasses.replace(study, config=named).test_sets_vary
