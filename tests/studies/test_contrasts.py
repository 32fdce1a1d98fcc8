"""The paired comparison against scipy and statsmodels, and every answer of the verdict."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from segmamba.studies.advice import what_would_decide
from segmamba.studies.anova import crossed, holm
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.contrasts import difference
from segmamba.studies.verdict import verdict
from segmamba.studies.words import points

ALIKE = {"seed_sd": 0.001, "case_sd": 0.002, "rest_sd": 0.002}


def draw(seeds=6, cases=30, seed_sd=2.0, case_sd=3.0, rest_sd=4.0, mean=1.0, draw_seed=0):
    rng = np.random.default_rng(draw_seed)
    return (
        mean
        + rng.normal(0, seed_sd, (seeds, 1))
        + rng.normal(0, case_sd, cases)
        + rng.normal(0, rest_sd, (seeds, cases))
    )


def test_without_spread_between_cases_it_is_the_t_test_over_seed_means():
    d = np.repeat(draw(cases=1), 12, axis=1)
    low, high = stats.ttest_1samp(d.mean(1), 0).confidence_interval(0.95)
    layout = crossed(d)
    assert layout.p_value() == pytest.approx(stats.ttest_1samp(d.mean(1), 0).pvalue)
    assert (layout.mean - layout.half_width(), layout.mean + layout.half_width()) == pytest.approx(
        (low, high)
    )


def test_without_spread_between_seeds_it_is_the_t_test_over_case_means():
    d = np.repeat(draw(seeds=1), 4, axis=0)
    assert crossed(d).p_value() == pytest.approx(stats.ttest_1samp(d.mean(0), 0).pvalue)


def test_interval_is_never_narrower_than_that_of_seeds_or_cases_alone():
    d = np.stack([draw(seeds=3, draw_seed=i) for i in range(200)])
    half = crossed(d).half_width()
    for axis in (-1, -2):
        low, high = stats.ttest_1samp(d.mean(axis), 0, axis=-1).confidence_interval(0.95)
        assert np.all(half >= (high - low) / 2 - 1e-12)


def test_p_is_below_five_percent_exactly_when_the_interval_excludes_zero():
    layout = crossed(np.stack([draw(seeds=4, draw_seed=i) for i in range(300)]))
    significant = layout.p_value() < 0.05
    assert 0 < significant.sum() < 300
    assert np.array_equal(significant, abs(layout.mean) > layout.half_width())


def test_standard_error_and_variances_agree_with_a_reml_mixed_model():
    mixedlm = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    pd = pytest.importorskip("pandas")
    d = draw(seeds=8, cases=25)
    seed, case = (index.ravel() for index in np.indices(d.shape))
    frame = pd.DataFrame({"d": d.ravel(), "seed": seed, "case": case, "all": 1})
    formulas = {"seed": "0 + C(seed)", "case": "0 + C(case)"}
    fitted = mixedlm.MixedLM.from_formula(
        "d ~ 1", groups="all", vc_formula=formulas, data=frame
    ).fit(reml=True)
    layout = crossed(d)
    assert float(layout.standard_error) == pytest.approx(fitted.bse["Intercept"], rel=0.01)
    by_name = dict(zip(["case", "seed"], fitted.vcomp, strict=True))
    assert [float(v) for v in layout.variances] == pytest.approx(
        [by_name["seed"], by_name["case"], fitted.scale], rel=0.02
    )


def test_false_alarms_stay_below_six_and_a_half_percent_with_few_seeds():
    rng = np.random.default_rng(0)
    for seeds, cases, seed_sd in ((3, 20, 2.0), (3, 100, 0.5), (5, 100, 1.0), (2, 20, 1.0)):
        d = (
            rng.normal(0, seed_sd, (3000, seeds, 1))
            + rng.normal(0, 5, (3000, 1, cases))
            + rng.normal(0, 5, (3000, seeds, cases))
        )
        assert np.mean(crossed(d).p_value() < 0.05) <= 0.065, (seeds, cases, seed_sd)


def test_identical_arms_differ_by_nothing_and_have_p_one(make_study):
    study = make_study({"a": 0.0, "b": 0.0}, seed_sd=0, case_sd=0, rest_sd=0)
    paired = difference(study, "b", "a", "WT")
    assert (paired.mean, paired.low, paired.high, paired.p_value) == (0, 0, 0, 1)


def test_holm_agrees_with_statsmodels_and_ignores_nan():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    p = [0.04, 0.001, 0.5, 0.012, 0.012]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([0.04, math.nan, 0.01])[::2] == pytest.approx([0.04, 0.02])
    assert math.isnan(holm([0.04, math.nan, 0.01])[1])


def test_difference_finds_the_planted_effect_with_its_pairs(make_study):
    studies = [make_study({"a": 0.0, "b": 0.03}, draw_seed=i) for i in range(60)]
    differences = [difference(study, "b", "a", "TC") for study in studies]
    covered = np.mean([d.low < 0.03 < d.high for d in differences])
    assert covered >= 0.88  # 95 % expected; below 0.88 in one of 100 such draws
    study, first = studies[0], differences[0]
    assert first.seeds == (0, 1, 2, 3, 4) and len(first.cases) == 40
    assert np.mean(first.seed_differences) == pytest.approx(first.mean)
    assert np.mean(first.patient_differences) == pytest.approx(first.mean)
    reverse = difference(study, "a", "b", "TC")
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx(
        (-first.mean, -first.high, -first.low)
    )


def test_a_failed_trial_leaves_its_seed_out_of_the_pairs_and_says_so(make_study):
    study = make_study({"a": 0.0, "b": 0.03}, failed={("b", 2)})
    paired = difference(study, "b", "a", "WT")
    assert paired.seeds == (0, 1, 3, 4)
    assert paired.notes == ("b has no tested trial of seed 2",)
    assert "Only 4 of 5 planned seeds could be paired." in verdict(study).sentence


def test_a_case_that_one_trial_did_not_score_is_left_out_everywhere(make_study):
    study = make_study({"a": 0.0, "b": 0.03})
    study.trials[3].test_cases[7]["dice_WT"] = math.nan
    paired = difference(study, "b", "a", "WT")
    assert len(paired.cases) == 39 and "BraTS-GLI-00007-000" not in paired.cases
    assert "1 test case left out" in paired.notes[0]


def test_every_arm_is_compared_with_the_baseline_and_adjusted(make_study):
    rows = compare_arms(make_study())
    assert [(row.arm, row.versus) for row in rows] == [
        ("depth 1", "depth 0"),
        ("depth 2", "depth 0"),
        ("depth 4", "depth 0"),
    ]
    assert [row.p_holm for row in rows] == pytest.approx(
        holm([row.regions["WT"].p_value for row in rows])
    )


def test_a_question_that_leaves_the_baseline_out_comes_first_and_unadjusted(make_study):
    question, *others = compare_arms(make_study(baseline="depth 2", than="depth 0"))
    assert (question.arm, question.versus) == ("depth 4", "depth 0") and math.isnan(question.p_holm)
    assert [row.versus for row in others] == ["depth 2"] * 3


@pytest.mark.parametrize(
    ("gain", "answer"),
    [(0.03, "supported"), (-0.03, "rejected"), (0.0, "equivalent"), (0.004, "equivalent")],
)
def test_verdict_follows_the_planted_effect(make_study, gain, answer):
    margin = 0.01 if answer == "equivalent" else 0.005
    result = verdict(make_study({"a": 0.0, "b": gain}, margin=margin, cases=200, **ALIKE))
    assert result.answer == answer
    assert result.sentence.lower().startswith(answer)


def test_a_sure_effect_below_the_margin_is_not_supported(make_study):
    result = verdict(make_study({"a": 0.0, "b": 0.005}, margin=0.02, cases=200, **ALIKE))
    assert result.difference.low > 0
    assert result.answer == "equivalent"


def test_undecided_names_further_seeds_that_mostly_decide(make_study):
    truth = {"cases": 100, "seed_sd": 0.015, "case_sd": 0.005}
    study = make_study({"a": 0.0, "b": 0.02}, seeds=4, draw_seed=5, **truth)
    result = verdict(study)
    assert (
        result.answer == "undecided"
        and f"about {result.further_seeds} further seeds" in result.sentence
    )
    more = [
        make_study(
            {"a": 0.0, "b": result.difference.mean},
            seeds=4 + result.further_seeds,
            draw_seed=i,
            **truth,
        )
        for i in range(20)
    ]
    same = [
        make_study({"a": 0.0, "b": result.difference.mean}, seeds=4, draw_seed=i, **truth)
        for i in range(20)
    ]
    decided = [
        sum(verdict(study).answer != "undecided" for study in studies) for studies in (same, more)
    ]
    assert decided[1] >= 8 and decided[1] > decided[0]  # about half: the estimate itself moves, too


def test_spread_between_patients_asks_for_cases_and_between_seeds_for_seeds():
    by_patient = what_would_decide(
        crossed(draw(seeds=4, cases=8, seed_sd=0.01, case_sd=3, rest_sd=0.1)), 1.5
    )
    by_seed = what_would_decide(
        crossed(draw(seeds=4, cases=80, seed_sd=3, case_sd=0.1, rest_sd=0.1)), 1.5
    )
    assert by_patient.seeds is None and by_patient.patients > 0
    assert by_seed.seeds > 0 and by_seed.patients is None


def test_one_seed_is_undecided_and_says_why(make_study):
    result = verdict(make_study({"a": 0.0, "b": 0.2}, seeds=1))
    assert result.answer == "undecided"
    assert "one seed" in result.sentence and "run at least 3 seeds" in result.sentence
    assert math.isnan(result.difference.low) and not math.isnan(result.difference.mean)


def test_one_test_case_is_undecided_and_says_why(make_study):
    result = verdict(make_study({"a": 0.0, "b": 0.2}, cases=1))
    assert result.answer == "undecided"
    assert "one test patient says nothing about other patients" in result.sentence


def test_an_arm_without_finished_trials_is_undecided_and_named(make_study):
    result = verdict(make_study({"a": 0.0, "b": 0.2}, failed={("b", seed) for seed in range(5)}))
    assert result.answer == "undecided"
    assert "b has no tested trial of seeds 0, 1, 2, 3, 4" in result.sentence


def test_a_hypothesis_about_an_unknown_arm_is_undecided(make_study):
    study = make_study()
    result = verdict(
        dataclasses.replace(
            study, hypothesis=dataclasses.replace(study.hypothesis, better="depth 8")
        )
    )
    assert result.answer == "undecided" and "depth 8" in result.sentence


def test_testing_on_validation_is_part_of_the_answer(make_study):
    assert (
        "also served as the validation set" in verdict(make_study(test_is_validation=True)).sentence
    )
    assert "validation" not in verdict(make_study()).sentence


def test_points_are_dice_times_a_hundred_with_a_real_minus():
    assert [
        points(0.0123),
        points(-0.0123),
        points(0.0123, signed=True),
        points(-0.0001, signed=True),
        points(math.nan),
    ] == [
        "1.2",
        "\N{MINUS SIGN}1.2",
        "+1.2",
        "0.0",
        "\N{EN DASH}",
    ]
