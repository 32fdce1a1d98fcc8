"""Several studies as one: which arms are the same, and which contrasts are asked."""

import dataclasses

import pytest

from segmamba.errors import UserError
from segmamba.studies.alpha_spending import level
from segmamba.studies.comparison import Asked, compare
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.contrasts import difference
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.pooled import pool
from segmamba.studies.registration import Registration
from segmamba.studies.results import CaseSets
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study

MADE_WITH = {"code": "c0de", "torch": "2.13.0", "device": "cpu", "cases": "ca5e"}


@pytest.fixture(scope="module")
def whole():
    """Six seeds of three arms, from which studies are cut."""
    arms = {"plain": 0.0, "deep": 0.02, "wide": 0.0}
    made = synthetic_study(arms, seeds=6, cases=30, epochs=1, better="deep", than="plain")
    return with_trials(made, made_with=MADE_WITH)


def with_trials(study, *, params=None, **changes):
    """The study with something else in every trial."""
    trials = tuple(
        dataclasses.replace(t, params=t.params | (params or {}), **changes) for t in study.trials
    )
    return dataclasses.replace(study, trials=trials)


def part(whole, name, seeds, arms=("plain", "deep"), **changes):
    """A study of some seeds and arms of another one."""
    trials = tuple(t for t in whole.trials if t.seed in seeds and t.arm in arms)
    return dataclasses.replace(
        whole,
        name=name,
        parent_run_id=name,
        seeds=tuple(seeds),
        arms={arm: whole.arms[arm] for arm in arms},
        baseline=arms[0],
        trials=trials,
        **changes,
    )


def test_seeds_of_the_same_arm_are_pooled_to_what_one_study_would_have_found(whole):
    pooled = pool([part(whole, "first", range(3)), part(whole, "second", range(3, 6))])
    assert list(pooled.arms) == ["plain", "deep"] and pooled.seeds == tuple(range(6))
    ours, theirs = (difference(study, "deep", "plain", "WT") for study in (pooled, whole))
    assert (ours.mean, ours.low, ours.high) == (theirs.mean, theirs.low, theirs.high)
    assert "deep: the seeds of first and second are pooled" in pooled.data.notes


def test_a_seed_that_two_studies_have_counts_once(whole):
    pooled = pool([part(whole, "first", range(4)), part(whole, "second", range(2, 6))])
    keys = [(t.arm, t.seed) for t in pooled.trials]
    assert len(keys) == len(set(keys)) == 12
    assert "plain: seeds 2, 3 finished in several studies and count once" in pooled.data.notes
    found = difference(pooled, "deep", "plain", "WT")
    assert found.mean == difference(whole, "deep", "plain", "WT").mean


def test_a_seed_that_failed_in_one_study_and_finished_in_another_has_finished(whole):
    first = part(whole, "first", range(3))
    failed = tuple(
        dataclasses.replace(t, status="FAILED", test_cases=[]) if t.seed == 1 else t
        for t in first.trials
    )
    pooled = pool([dataclasses.replace(first, trials=failed), part(whole, "second", [1, 2, 3])])
    assert {t.status for t in pooled.trials} == {"FINISHED"}
    assert difference(pooled, "deep", "plain", "WT").seeds == (0, 1, 2, 3)


def test_seeds_are_those_of_the_configuration_not_their_numbers(whole):
    moved = part(whole, "second", range(3))
    moved = dataclasses.replace(
        moved,
        trials=tuple(
            dataclasses.replace(t, params=t.params | {"seed": str(t.seed + 100)})
            for t in moved.trials
        ),
    )
    assert pool([part(whole, "first", range(3)), moved]).seeds == (0, 1, 2, 100, 101, 102)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"params": {"optim.lr": "0.001"}}, "optim.lr is 0.003 and 0.001"),
        ({"made_with": MADE_WITH | {"code": "other", "cases": "other"}}, "the code differs"),
        ({"made_with": MADE_WITH | {"device": "H200"}}, "the device is cpu and H200"),
        ({"made_with": {}}, "the code differs"),
    ],
)
def test_arms_of_one_name_that_differ_are_kept_apart_with_the_reason(whole, change, why):
    pooled = pool(
        [part(whole, "first", range(3)), with_trials(part(whole, "second", range(3, 6)), **change)]
    )
    assert list(pooled.arms) == [
        "plain (first)",
        "deep (first)",
        "plain (second)",
        "deep (second)",
    ]
    start = "deep (first) and deep (second) are kept apart: "
    (note,) = [note for note in pooled.data.notes if note.startswith(start)]
    assert why in note


def test_another_training_set_keeps_arms_apart(whole):
    fewer = dataclasses.replace(whole.data, train=whole.data.train[:30])
    pooled = pool([part(whole, "first", range(3)), part(whole, "second", range(3), data=fewer)])
    assert "deep (second)" in pooled.arms
    assert any(note.endswith("the data split differs") for note in pooled.data.notes)
    across = difference(pooled, "deep (second)", "plain (first)", "WT")
    assert across.seeds == (0, 1, 2) and len(across.patients) == 30


def test_arms_of_other_names_are_the_same_where_their_setups_are(whole):
    second = part(whole, "second", range(3, 6))
    second = dataclasses.replace(
        second,
        arms={"base": second.arms["plain"], "deep": second.arms["deep"]},
        baseline="base",
        trials=tuple(
            dataclasses.replace(t, arm="base") if t.arm == "plain" else t for t in second.trials
        ),
    )
    pooled = pool([part(whole, "first", range(3)), second])
    assert list(pooled.arms) == ["plain", "deep"] and len(pooled.trials) == 12
    assert any("there also named base" in note for note in pooled.data.notes)


def test_a_shared_digest_shows_the_same_arm_where_trials_do_not_name_their_code(whole):
    """As in studies of before 0.3, where one reused trials of the other."""
    old = []
    for name, seeds in (("first", range(3)), ("second", range(2, 6))):
        study = part(whole, name, seeds)
        trials = [dataclasses.replace(t, made_with={}, digest=t.run_id) for t in study.trials]
        old.append(dataclasses.replace(study, trials=tuple(trials)))
    assert list(pool(old).arms) == ["plain", "deep"]
    assert len(pool([with_trials(study, digest="") for study in old]).arms) == 4


def sets(whole, **changes):
    return dataclasses.replace(whole.data, **changes)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda w: {"data": sets(w, test=(*w.data.test[1:], "new"))},
            "test sets differ: 29 cases shared, 1 and 1 not, for example BraTS-GLI-00000-000",
        ),
        (lambda w: {"data": sets(w, phantom=True)}, "one of them was run on phantoms"),
        (lambda w: {"folds": (0, 1), "data": sets(w, folds=(CaseSets(), CaseSets()))}, "2 folds"),
        (lambda w: {"config": w.config | {"data.split_by_seed": True}}, "data.split_by_seed"),
    ],
)
def test_studies_that_tested_other_cases_are_refused(whole, change, why):
    with pytest.raises(UserError, match="first and second cannot be compared") as error:
        pool([part(whole, "first", range(3)), part(whole, "second", range(3), **change(whole))])
    assert why in str(error.value)


def test_cases_of_the_same_names_with_other_contents_are_refused(whole):
    other = with_trials(part(whole, "second", range(3)), made_with=MADE_WITH | {"cases": "other"})
    with pytest.raises(UserError, match="the files of cases with the same names differ"):
        pool([part(whole, "first", range(3)), other])
    phantoms = [
        with_trials(part(whole, name, range(3), data=sets(whole, phantom=True)), params=params)
        for name, params in (("a", {"phantom.seed": "0"}), ("b", {"phantom.seed": "1"}))
    ]
    with pytest.raises(UserError, match=r"their phantoms differ \(phantom.seed is 0 and 1\)"):
        pool(phantoms)


def test_a_study_named_twice_is_refused(whole):
    with pytest.raises(UserError, match="first is named twice"):
        pool([part(whole, "first", range(3))] * 2)


def two(whole, **second):
    return [
        part(whole, "first", range(6), ("plain", "deep")),
        part(whole, "second", range(6), ("plain", "wide"), **second),
    ]


def test_holm_covers_every_contrast_that_is_asked(whole):
    study = compare(two(whole), Asked())
    assert [c.label for c in study.hypothesis.contrasts] == [
        f"deep {MINUS} plain",
        f"wide {MINUS} plain",
    ]
    p = {r.arm: (r.regions["WT"].p_value, r.p_holm) for r in compare_arms(study)}
    assert p["deep"][1] == pytest.approx(2 * p["deep"][0])
    assert "Exploratory: chosen after the studies had ended." in verdict(study).sentence


def test_a_claim_that_a_study_had_declared_is_not_exploratory(whole):
    study = compare(two(whole), Asked(contrasts=["deep - plain"]))
    assert study.hypothesis.claim == whole.hypothesis.claim
    assert "xploratory" not in verdict(study).sentence
    assert any("first declared this claim before it ran" in note for note in study.data.notes)
    for asked in ({"margin": 0.4}, {"region": "ET"}, {"direction": "alike"}, {"metric": "hd95"}):
        other = compare(two(whole), Asked(contrasts=["deep - plain"], **asked))
        assert other.hypothesis.exploratory, asked


def test_options_take_the_place_of_the_first_studys_hypothesis(whole):
    claim = compare(two(whole), Asked(margin=1.5, region="ET")).hypothesis
    assert (claim.margin, claim.region) == (pytest.approx(0.015), "ET")
    assert compare(two(whole), Asked(metric="hd95")).hypothesis.margin == 1
    assert compare(two(whole), Asked(metric="hd95", margin=2)).hypothesis.margin == 2


def test_arms_are_found_by_either_name_whatever_minus_signs_they_have(whole):
    other = with_trials(part(whole, "a-b", range(3)), params={"optim.lr": "0.001"})
    studies = [part(whole, "first", range(3)), other]
    for text in ("deep (a-b) - plain (first)", f"deep (a-b) {MINUS} plain (first)"):
        (contrast,) = compare(studies, Asked(contrasts=[text])).hypothesis.contrasts
        assert (contrast.arm, contrast.versus) == ("deep (a-b)", "plain (first)")
    study = compare(studies, Asked(baseline="deep (a-b)"))
    assert study.baseline == "deep (a-b)" and len(study.hypothesis.contrasts) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            Asked(baseline="none"),
            '--baseline "none": there is no such arm; name one of plain, deep',
        ),
        (Asked(contrasts=["deep"]), 'names no two arms; write "ARM - ARM" with two of plain'),
        (Asked(contrasts=["deep - deep"]), "both arms are deep"),
        (Asked(metric="iou"), "--metric iou"),
        (Asked(region="XX"), "region 'XX' is none of"),
        (Asked(direction="worse"), "direction 'worse' is none of"),
        (Asked(margin=0), "must be above 0"),
        (Asked(margin=float("nan")), "must be above 0"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_choices(whole, asked, message):
    with pytest.raises(UserError) as error:
        compare(two(whole), asked)
    assert message in str(error.value)


def test_an_arm_without_another_has_nothing_to_be_compared_with(whole):
    with pytest.raises(UserError, match="have one arm, plain: nothing to compare it with"):
        compare([part(whole, "first", range(3), ("plain",))], Asked())


def test_a_study_that_could_stop_early_sets_the_level_of_what_is_pooled_with_it(whole):
    sequential = part(whole, "second", range(3, 6), max_seeds=10)
    study = compare([part(whole, "first", range(3)), sequential], Asked())
    found = difference(study, "deep", "plain", "WT")
    fixed = difference(whole, "deep", "plain", "WT")
    assert found.level == 1 - level(10, 6) and found.mean == fixed.mean
    assert found.low < fixed.low and found.p_value > fixed.p_value
    assert "further test patients alone would" not in verdict(study).sentence
    assert any("looks after each of up to 10 seeds" in note for note in study.data.notes)


def test_a_claim_that_was_written_after_its_trials_stays_exploratory(whole):
    for ended_before, exploratory in ((0, False), (1, True)):
        stamp = Registration(sha256="0" * 64, written_at=0.0, trials=6, ended_before=ended_before)
        study = part(whole, "first", range(3), registration=stamp)
        claim = compare([study], Asked(contrasts=["deep - plain"])).hypothesis
        assert bool(claim.exploratory) == exploratory


def test_failures_are_counted_over_the_runs_of_each_arm(whole):
    first, second = part(whole, "first", range(3)), part(whole, "second", range(3, 6), ("plain",))
    study = pool([first, second])
    found = difference(study, "deep", "plain", "WT")
    assert found.planned == {"deep": 3, "plain": 6} and found.seeds == (0, 1, 2)
    assert "Only 3 of 6 seeds could be paired" in verdict(study).sentence
