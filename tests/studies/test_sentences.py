"""Every form of a verdict's sentence, with its numbers; and what stands beside an answer."""

import dataclasses
import math

import numpy as np
import pytest

from segmamba.config import DICE_MARGIN
from segmamba.errors import UserError
from segmamba.studies.anova import crossed, deciding_levels, holm
from segmamba.studies.caveats import background, failure_bound
from segmamba.studies.champion import champion_words
from segmamba.studies.comparisons import compare_arms, differences_of
from segmamba.studies.contrasts import TOLD_BY_IDS, Difference, difference
from segmamba.studies.hypothesis import Hypothesis, hypothesis_from
from segmamba.studies.scores import seed_scores
from segmamba.studies.sentences import sentence_of_many, sentence_of_one
from segmamba.studies.standing import not_shown_worse, outperforms, ranks
from segmamba.studies.verdict import decide, verdict
from tests.studies.synthetic import synthetic_study

MINUS = "\N{MINUS SIGN}"
CLAIM = Hypothesis(claim="c", region="WT", better="b", than="a")


def planted(mean, half, *, arm="b", versus="a", seeds=6, patients=40, **fields):
    """A Difference whose 95 % interval is mean +- half."""
    d = np.random.default_rng(0).normal(0, 1, (seeds, patients))
    d -= d.mean()
    d *= half / float(crossed(d).half_width())
    layout = crossed(d + mean)
    ids = tuple(f"c{i}" for i in range(patients))
    return Difference(
        arm=arm,
        versus=versus,
        region="WT",
        seeds=tuple(range(seeds)),
        cases=ids,
        patients=ids,
        patient_differences=tuple((d + mean).mean(0)),
        failures={arm: 0, versus: 0} | fields.pop("failures", {}),
        planned={arm: seeds, versus: seeds},
        mean=mean,
        p_value=float(layout.p_value()),
        layout=layout,
        **fields,
    ).at_level(0.95)


def of_one(mean, half, **fields):
    return sentence_of_one(decide([planted(mean, half, **fields)], CLAIM), CLAIM, 6)


@pytest.mark.parametrize(
    ("mean", "half", "sentence"),
    [
        (
            0.02,
            0.01,
            "Supported: b scores 2.0 Dice points above a on WT Dice (95 % interval +1.0 to +3.0; "
            "6 seeds, 40 patients); the whole interval lies above the 0.5 points that matter.",
        ),
        (
            0.012,
            0.01,
            "Supported: b scores 1.2 Dice points above a on WT Dice (95 % interval +0.2 to +2.2; "
            "6 seeds, 40 patients); the interval lies above 0 and the estimate reaches the 0.5 "
            "points that matter, while smaller effects are not excluded.",
        ),
        (
            -0.02,
            0.01,
            f"Rejected (worse): b scores 2.0 Dice points below a on WT Dice (95 % interval "
            f"{MINUS}3.0 to {MINUS}1.0; 6 seeds, 40 patients); the whole interval lies below 0.",
        ),
        (
            -0.003,
            0.006,
            f"Rejected (no gain that matters): b scores 0.3 Dice points below a on WT Dice (95 % "
            f"interval {MINUS}0.9 to +0.3; 6 seeds, 40 patients); the whole interval lies below "
            "the 0.5 points that matter.",
        ),
        (
            0.0,
            0.002,
            f"Equivalent: b and a show no difference on WT Dice (95 % interval {MINUS}0.2 to +0.2; "
            "6 seeds, 40 patients); the whole interval lies within ±0.5 points that matter.",
        ),
        (
            0.003,
            0.001,
            "Equivalent: b scores 0.3 Dice points above a on WT Dice (95 % interval +0.2 to +0.4; "
            "6 seeds, 40 patients); the whole interval lies within ±0.5 points that matter; it "
            "excludes 0: a difference exists, too small to matter.",
        ),
    ],
)
def test_each_answer_to_one_contrast_says_which_it_is(mean, half, sentence):
    assert of_one(mean, half) == sentence


def test_advice_names_seeds_and_patients_for_eighty_percent_power():
    sentence = of_one(0.02, 0.03)
    assert sentence.startswith(
        "Undecided: b scores 2.0 Dice points above a on WT Dice (95 % interv"
    )
    assert "would decide it with 80 % power if estimate and spread stay as they are." in sentence
    hopeless = of_one(0.005, 0.03)
    assert "neither 30 further seeds nor 2000 further test patients alone would" in hopeless


def test_an_undecided_claim_of_several_shows_the_interval_that_decides():
    claim = dataclasses.replace(CLAIM, better="", than="", contrasts=(("b", "a"), ("c", "a")))
    differences = [planted(0.02, 0.018), planted(0.0, 0.03, arm="c")]
    assert differences[0].low > 0, "alone it would be found"
    decision = decide(differences, claim)
    sentence = sentence_of_many(decision, claim)
    assert decision.answer == "undecided" and decision.leading.low < 0
    assert "(97.5 % interval " in sentence and "adjusted for the number of tests" in sentence


def test_what_holm_rejects_is_what_its_intervals_exclude_zero_for():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        layouts = [crossed(rng.normal(0.8, 1, (4, 12)) + rng.normal(0, 0.4)) for _ in range(4)]
        p = [float(layout.p_value()) for layout in layouts]
        rejected = [adjusted < 0.05 for adjusted in holm(p)]
        for layout, level, reject in zip(layouts, deciding_levels(p), rejected, strict=True):
            assert (abs(float(layout.mean)) > float(layout.half_width(level))) == reject
        found += sum(rejected)
    assert 0 < found < 400 and deciding_levels([0.2]) == [0.95]


@pytest.mark.parametrize(
    ("direction", "values", "begins", "ends"),
    [
        ("better", [(-0.02, 0.01), (-0.03, 0.01)], "Rejected (worse): the best of 2:", "below 0."),
        (
            "better",
            [(-0.02, 0.01), (-0.001, 0.005)],
            "Rejected (no gain that matters): the best of 2:",
            "every interval lies below the 0.5 points that matter.",
        ),
        ("better", [(0.014, 0.01), (0, 0.01)], "Supported: b scores 1.4", "are not excluded."),
        (
            "better",
            [(0.003, 0.001), (0, 0.001)],
            "Equivalent: the best of 2:",
            "one of them excludes 0: a difference exists, too small to matter.",
        ),
        (
            "no better",
            [(0.014, 0.01), (0, 0.01)],
            "Rejected (a gain that matters): b",
            "are not excluded.",
        ),
        ("no better", [(0, 0.002), (-0.02, 0.01)], "Supported: the best of 2: b", "that matter."),
        ("alike", [(0, 0.002), (0.03, 0.01)], "Rejected (a difference that matters):", "matter."),
        ("alike", [(0, 0.002), (0, 0.003)], "Supported: the largest difference of 2", "matter."),
    ],
)
def test_each_answer_to_several_contrasts_says_which_it_is(direction, values, begins, ends):
    claim = dataclasses.replace(
        CLAIM, better="", than="", contrasts=(("b", "a"), ("c", "a")), direction=direction
    )
    differences = [planted(*v, arm=arm) for v, arm in zip(values, "bc", strict=True)]
    sentence = sentence_of_many(decide(differences, claim), claim)
    assert sentence.startswith(begins) and sentence.endswith(ends), sentence


def test_unequal_failures_forbid_an_answer_and_are_named():
    decision = decide([planted(0.02, 0.01, failures={"b": 2})], CLAIM)
    assert decision.answer == "undecided" and decision.failures_forbid
    sentence = sentence_of_one(decision, CLAIM, 6)
    assert "b failed in 2 of 6 runs and a in none" in sentence and "may turn the answer" in sentence
    assert decide([planted(0.02, 0.01, failures={"b": 1, "a": 1})], CLAIM).answer == "supported"


def test_failures_of_one_contrast_do_not_forbid_anothers_gain():
    study = synthetic_study({"a": 0.0, "b": 0.05, "c": 0.0}, failed={("c", 1)}, cases=60)
    claim = dataclasses.replace(CLAIM, better="", than="", contrasts=(("b", "a"), ("c", "a")))
    sentence = verdict(study, claim).sentence
    assert sentence.startswith("Supported: b")
    assert f"Only 4 of 5 planned seeds could be paired for c {MINUS} a." in sentence
    assert "c failed in 1 of 5 runs and a in none" in sentence
    failed = synthetic_study({"a": 0.0, "b": 0.05}, failed={("b", 1)}, cases=60)
    assert verdict(failed, CLAIM).answer == "undecided"


def test_the_failure_rate_that_stays_possible_is_printed():
    assert failure_bound(0, 3) == pytest.approx(1 - 0.05 ** (1 / 3))
    assert failure_bound(5, 5) == 1 and failure_bound(1, 5) > failure_bound(0, 5)
    study = synthetic_study({"a": 0.0, "b": 0.02}, cases=30)
    lines = " ".join(background(study, decide(differences_of(study, CLAIM), CLAIM)))
    assert "a failure rate of up to 45 % stays possible" in lines
    assert "All seeds share one split" in lines and "signed-rank test over 30 patients" in lines
    assert "correlate by" in lines
    own = dataclasses.replace(study, config=study.config | {"data.split_by_seed": True})
    assert "share one split" not in " ".join(
        background(own, decide(differences_of(own, CLAIM), CLAIM))
    )


def test_few_patients_and_few_seeds_are_part_of_the_answer():
    few = verdict(synthetic_study({"a": 0.0, "b": 0.05}, seeds=3, cases=12), CLAIM).sentence
    assert "Fewer than 20 test patients" in few and "signed-rank test" in few
    assert "found with 3 seeds reads too large" in few
    many = verdict(synthetic_study({"a": 0.0, "b": 0.05}, seeds=8, cases=30), CLAIM).sentence
    assert "Fewer than" not in many and "too large" not in many


def test_time_points_are_averaged_within_patients_in_table_and_difference():
    study = synthetic_study({"a": 0.0, "b": 0.02}, cases=40, timepoints=4)
    paired = difference(study, "b", "a", "WT")
    assert (len(paired.cases), len(paired.patients)) == (40, 10)
    assert "40 cases of 10 patients" in verdict(study, CLAIM).sentence
    gap = [np.mean(list(seed_scores(study, arm, "dice_WT").values())) for arm in "ba"]
    assert gap[0] - gap[1] == pytest.approx(paired.mean)
    for trial in study.trials:  # one patient loses three of its four time points everywhere
        del trial.test_cases[1:4]
    fewer = difference(dataclasses.replace(study), "b", "a", "WT")
    assert len(fewer.cases) == 37 and len(fewer.patients) == 10


def test_old_tables_take_their_patients_from_the_study_or_say_that_ids_tell_them():
    study = synthetic_study({"a": 0.0, "b": 0.02}, cases=6)
    for trial in study.trials:
        for row in trial.test_cases:
            del row["patient"]
    assert TOLD_BY_IDS in difference(study, "b", "a", "WT").notes
    people = {case: f"p{i // 2}" for i, case in enumerate(study.data.test)}
    known = dataclasses.replace(study, data=dataclasses.replace(study.data, patients=people))
    paired = difference(known, "b", "a", "WT")
    assert paired.patients == ("p0", "p1", "p2") and TOLD_BY_IDS not in paired.notes


def test_bold_is_every_arm_that_is_not_shown_worse():
    study = synthetic_study({"a": 0.0, "b": 0.05, "c": 0.05}, cases=60)
    assert not_shown_worse(study, "dice_WT") == {"b", "c"}


def test_a_missing_fold_leaves_its_patients_out_of_table_and_difference_alike():
    made = synthetic_study({"a": 0.0, "b": 0.03}, seeds=3, cases=20)
    parts = [
        dataclasses.replace(t, fold=fold, test_cases=t.test_cases[fold * 10 : fold * 10 + 10])
        for t in made.trials
        for fold in (0, 1)
        if (t.arm, t.seed, fold) != ("b", 1, 1)
    ]
    study = dataclasses.replace(made, folds=(0, 1), trials=tuple(parts))
    a, b = (np.mean(list(seed_scores(study, arm, "dice_WT").values())) for arm in "ab")
    assert b - a == pytest.approx(difference(study, "b", "a", "WT").mean)


def test_ranks_and_outperforming_follow_the_planted_order():
    study = synthetic_study({"a": 0.0, "b": 0.03, "c": 0.0}, cases=40)
    by_arm = {rank.arm: rank for rank in ranks(study, "dice_WT")}
    assert by_arm["b"].first > 0.99 and (by_arm["b"].low, by_arm["b"].high) == (1, 1)
    assert by_arm["a"].low >= 2 and by_arm["c"].high == 3
    found = outperforms(study, "b", "a", "dice_WT")
    assert (found.share, found.pairs) == (1.0, 25)
    assert outperforms(study, "a", "a", "dice_WT").share == pytest.approx(0.5)


def test_the_champion_is_one_run_beside_its_arms_mean_and_repeats_no_verdict():
    study = synthetic_study({"a": 0.0, "b": 0.02})
    words = champion_words(study)
    assert "best single run on the validation set is a, seed 0" in words
    assert words.endswith("on average over 5 seeds.") and "erdict" not in words


def with_column(study, column, worse):
    """The study with a column in which arm b is lower than arm a by `worse`."""
    rng = np.random.default_rng(0)
    for trial in study.trials:
        for row in trial.test_cases:
            noise = rng.normal(0, 0.1)
            row[column] = 10 + noise - (worse if trial.arm == "b" else 0.0)
    return study


def test_a_shorter_hd95_is_better_and_is_said_in_millimetres():
    study = with_column(synthetic_study({"a": 0.0, "b": 0.0}), "hd95_mm_WT", 3.0)
    claim = Hypothesis(claim="c", region="WT", metric="hd95", better="b", than="a")
    found = verdict(study, claim)
    assert claim.margin == 1.0 and found.answer == "supported" and found.difference.mean > 0
    assert "b scores 3.0 mm below a on WT HD95 (95 % interval of the improvement" in found.sentence
    assert "1.0 mm that matter" in found.sentence


def test_nsd_can_decide_and_an_unknown_metric_is_refused():
    study = synthetic_study({"a": 0.0, "b": 0.0})
    for trial in study.trials:
        for row in trial.test_cases:
            row["nsd_1mm_WT"] = row["dice_WT"] + (0.05 if trial.arm == "b" else 0)
    claim = Hypothesis(claim="c", region="WT", metric="nsd_1mm", better="b", than="a")
    assert claim.margin == DICE_MARGIN
    assert "NSD points above a on WT NSD at 1 mm" in verdict(study, claim).sentence
    with pytest.raises(UserError, match="metric 'iou' is none of dice, nsd_1mm, hd95"):
        Hypothesis(claim="c", metric="iou")
    stored = dataclasses.asdict(CLAIM) | {"score": "dice"}
    del stored["metric"]
    assert hypothesis_from(stored) == CLAIM, "as versions before 0.3 stored it"


def test_the_table_shows_the_interval_that_decides_the_first_claim():
    study = synthetic_study({"a": 0.0, "b": 0.01, "c": 0.012})
    claim = dataclasses.replace(CLAIM, better="", than="", contrasts=(("b", "a"), ("c", "a")))
    study = dataclasses.replace(study, hypothesis=claim)
    shown = {row.label: row.regions["WT"] for row in compare_arms(study)}
    leading = verdict(study).difference
    assert shown[leading.label].low == leading.low and leading.level > 0.95
    assert math.isfinite(leading.low)
