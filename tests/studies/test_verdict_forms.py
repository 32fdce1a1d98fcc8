"""Claims about several contrasts, about nothing being better, about likeness, and trends."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from segmamba.errors import UserError
from segmamba.studies.anova import holm
from segmamba.studies.contrasts import contrast_difference, difference
from segmamba.studies.hypothesis import Hypothesis, PairwiseContrast, Trend, hypothesis_from
from segmamba.studies.verdict import gains, verdict
from tests.studies.synthetic import synthetic_study

CLEAR = {"seed_sd": 0.001, "case_sd": 0.002, "rest_sd": 0.002, "cases": 200}


def answer(effects, **claim):
    study = synthetic_study(effects, **CLEAR)
    return verdict(study, Hypothesis(claim="c", region="WT", **claim))


def pairs(effects):
    return tuple((arm, "a") for arm in effects if arm != "a")


@pytest.mark.parametrize(
    ("effects", "direction", "expected"),
    [
        ({"a": 0.0, "b": 0.03, "c": 0.0}, "better", "supported"),
        ({"a": 0.0, "b": -0.03, "c": -0.02}, "better", "rejected"),
        ({"a": 0.0, "b": 0.0, "c": 0.001}, "better", "equivalent"),
        ({"a": 0.0, "b": 0.0, "c": -0.03}, "better", "rejected"),
        ({"a": 0.0, "b": 0.03, "c": -0.03}, "no better", "rejected"),
        ({"a": 0.0, "b": 0.0, "c": -0.03}, "no better", "supported"),
        ({"a": 0.0, "b": 0.0, "c": 0.001}, "alike", "supported"),
        ({"a": 0.0, "b": 0.0, "c": -0.03}, "alike", "rejected"),
        ({"a": 0.0, "b": 0.03, "c": 0.0}, "alike", "rejected"),
    ],
)
def test_the_answer_follows_the_planted_effects(effects, direction, expected):
    result = answer(effects, contrasts=pairs(effects), direction=direction)
    assert result.answer == expected
    assert result.sentence.lower().startswith(expected)


@pytest.mark.parametrize("direction", ["better", "no better", "alike"])
def test_one_contrast_of_two_that_cannot_be_measured_leaves_it_undecided(direction):
    spread = {"seed_sd": 0.001, "case_sd": 0.001, "rest_sd": 0.001}
    study = synthetic_study(
        {"a": 0.0, "b": 0.0, "c": 0.0},
        seeds=3,
        cases=12,
        failed={("c", seed) for seed in range(3)},
        **spread,
    )
    result = verdict(
        study,
        Hypothesis(claim="c", region="WT", contrasts=(("b", "a"), ("c", "a")), direction=direction),
    )
    assert result.answer == "undecided" and "c has no tested trial" in result.sentence


def test_a_gain_is_supported_although_another_contrast_has_no_trials():
    study = synthetic_study(
        {"a": 0.0, "b": 0.05, "c": 0.0}, failed={("c", seed) for seed in range(5)}, **CLEAR
    )
    result = verdict(study, Hypothesis(claim="c", region="WT", contrasts=(("c", "a"), ("b", "a"))))
    assert result.answer == "supported" and result.difference.arm == "b"


def test_gains_agree_with_statsmodels_holm_over_contrasts_and_regions():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    effects, corrected, plain = {"a": 0.0, "b": 0.012, "c": 0.016, "d": 0.02}, 0, 0
    for draw_seed in range(12):
        study = synthetic_study(
            effects, seeds=4, cases=40, seed_sd=0.003, draw_seed=draw_seed, epochs=1
        )
        differences = [
            difference(study, arm, "a", region) for arm in "bcd" for region in ("WT", "TC")
        ]
        rejected = multipletests([f.p_value for f in differences], alpha=0.05, method="holm")[0]
        assert gains(differences, 0.005) == [
            bool(r) and f.mean >= 0.005 for r, f in zip(rejected, differences, strict=True)
        ]
        corrected, plain = (
            corrected + sum(gains(differences, 0.005)),
            plain + sum(f.p_value < 0.05 and f.mean >= 0.005 for f in differences),
        )
    assert 0 < corrected < plain, "the correction decides some of them"


def test_outside_the_margin_is_asked_at_bonferronis_level():
    effects = {"a": 0.0, **dict.fromkeys("bcdefghi", 0.0), "j": 0.0075}
    study = synthetic_study(
        effects, seeds=4, cases=100, seed_sd=0.0006, case_sd=0.004, rest_sd=0.004
    )
    one = difference(study, "j", "a", "WT")
    assert one.low > 0.005, "on its own it lies outside"
    level = 1 - 0.05 / 9
    wider = float(one.layout.half_width(level))
    assert wider > float(one.layout.half_width())
    result = verdict(
        study, Hypothesis(claim="c", region="WT", contrasts=pairs(effects), direction="alike")
    )
    assert (result.answer == "rejected") == (one.mean - wider > 0.005)


def test_a_trend_is_the_least_squares_line_of_every_seed_and_case():
    doses = {"depth 0": 0, "depth 1": 1, "depth 2": 2, "depth 4": 4}
    study = synthetic_study(seeds=3, cases=7)
    paired = contrast_difference(study, Trend(doses), "WT")
    tables = {
        arm: [[row["dice_WT"] for row in t.test_cases] for t in study.trials if t.arm == arm]
        for arm in doses
    }
    stacked = np.array([tables[arm] for arm in doses])  # (4 arms, S, C)
    rises = [
        [4 * stats.linregress([0, 1, 2, 4], stacked[:, s, c]).slope for c in range(7)]
        for s in range(3)
    ]
    assert paired.mean == pytest.approx(np.mean(rises))
    assert paired.seed_differences == pytest.approx(np.mean(rises, axis=1))
    assert math.isclose(sum(Trend(doses).weights.values()), 0, abs_tol=1e-12)


def test_a_trend_answers_whether_it_rises():
    doses = {"depth 0": 0, "depth 1": 1, "depth 2": 2, "depth 4": 4}
    claim = Hypothesis(claim="c", region="WT", contrasts=(Trend(doses),))
    rising = verdict(
        synthetic_study({arm: 0.01 * dose for arm, dose in doses.items()}, **CLEAR), claim
    )
    flat = verdict(synthetic_study(dict.fromkeys(doses, 0.0), **CLEAR), claim)
    assert rising.answer == "supported" and "rises by 4." in rising.sentence
    assert flat.answer in ("equivalent", "rejected")


def test_further_seeds_are_named_for_the_contrast_that_may_gain_at_the_corrected_level():
    study = synthetic_study({"a": 0.0, "b": 0.015, "c": 0.0}, seeds=3, cases=60, seed_sd=0.008)
    claim = Hypothesis(claim="c", region="WT", contrasts=(("b", "a"), ("c", "a")))
    both, one = (
        verdict(study, claim),
        verdict(study, dataclasses.replace(claim, contrasts=(("b", "a"),))),
    )
    assert both.answer == one.answer == "undecided"
    assert both.further_seeds >= one.further_seeds > 0


def test_folds_are_put_together_to_one_table_and_a_missing_one_is_named():
    study = synthetic_study({"a": 0.0, "b": 0.03}, seeds=3, cases=20)
    parts = [
        dataclasses.replace(t, fold=fold, test_cases=t.test_cases[fold * 10 : fold * 10 + 10])
        for t in study.trials
        for fold in (0, 1)
    ]
    folded = dataclasses.replace(study, folds=(0, 1), trials=tuple(parts))
    whole, pooled = difference(study, "b", "a", "WT"), difference(folded, "b", "a", "WT")
    assert (pooled.mean, pooled.low, pooled.p_value, pooled.cases) == (
        whole.mean,
        whole.low,
        whole.p_value,
        whole.cases,
    )
    lacking = dataclasses.replace(
        folded, trials=tuple(t for t in parts if (t.arm, t.seed, t.fold) != ("b", 1, 1))
    )
    paired = difference(lacking, "b", "a", "WT")
    assert paired.seeds == (0, 1, 2) and len(paired.cases) == 10
    assert "b has no tested trial of seed/fold 1/1" in paired.notes[0]


def test_a_claim_keeps_what_a_part_of_the_arms_can_answer():
    claim = Hypothesis(
        claim="c", contrasts=(("b", "a"), ("d", "c"), Trend({"a": 0, "b": 1, "c": 2}))
    )
    kept = claim.within(["a", "b"])
    assert kept.contrasts == (
        PairwiseContrast("b", "a"),
        Trend({"a": 0, "b": 1}),
    ) and kept.left_out == ("d \N{MINUS SIGN} c",)
    alone = Hypothesis(claim="c", better="b", than="a").within(["a"])
    assert alone.contrasts == () and alone.left_out == ("b \N{MINUS SIGN} a",)
    study = synthetic_study({"a": 0.0, "b": 0.0}, seeds=2, cases=3)
    assert verdict(study, alone).answer == "undecided"


def test_a_claim_comes_back_from_json_as_it_was():
    import json

    claim = Hypothesis(
        claim="c",
        region=("WT", "ET"),
        contrasts=(("b", "a"), Trend({"a": 0, "b": 1})),
        direction="alike",
        margin=0.01,
    )
    assert hypothesis_from(json.loads(json.dumps(dataclasses.asdict(claim)))) == claim


@pytest.mark.parametrize("wrong", [{"region": "brain"}, {"direction": "worse"}, {"margin": 0.0}])
def test_a_claim_that_means_nothing_is_refused(wrong):
    with pytest.raises(UserError, match="hypothesis: "):
        Hypothesis(claim="c", better="b", than="a", **wrong)


def test_holm_over_one_family_is_shown_with_the_claims_contrasts():
    from segmamba.studies.comparisons import compare_arms

    effects = {"a": 0.0, "b": 0.01, "c": 0.01, "d": 0.02}
    study = synthetic_study(effects, seeds=3)
    claim = dataclasses.replace(
        study.hypothesis, better="", than="", contrasts=(("d", "b"), ("d", "c"))
    )
    rows = compare_arms(dataclasses.replace(study, hypothesis=claim))
    family = [row for row in rows if row.decides]
    assert [(row.arm, row.versus) for row in family] == [("d", "b"), ("d", "c")]
    assert [row.p_holm for row in family] == pytest.approx(
        holm([row.regions["WT"].p_value for row in family])
    )
    assert len(rows) == 5
