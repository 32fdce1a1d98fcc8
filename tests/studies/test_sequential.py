"""Looks of studies that add seeds: what they decide, who goes on, and what the verdict says."""

import dataclasses
import json
import math

import numpy as np
import pytest

from segmamba.errors import UserError
from segmamba.studies.alpha_spending import level
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.contrasts import difference
from segmamba.studies.hypothesis import Hypothesis, Trend
from segmamba.studies.look_rules import gain
from segmamba.studies.looks import ContrastLook, Look
from segmamba.studies.results import study_from
from segmamba.studies.sequential import (
    FIRST_LOOK,
    claim_answer,
    first_seeds,
    looks_as_rows,
    looks_from_rows,
    take_look,
)
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study

CLEAR = {"seed_sd": 0.002, "case_sd": 0.002, "rest_sd": 0.002, "cases": 100, "epochs": 1}


def sequential(effects, *, max_seeds=8, secondary=(), claim=None, **spread):
    """A study whose trials of every seed are there."""
    study = synthetic_study(effects, seeds=max_seeds, **{"epochs": 1, **spread})
    claim = claim or study.hypothesis
    return dataclasses.replace(study, max_seeds=max_seeds, hypothesis=claim, secondary=secondary)


def run(study):
    """Look after every seed at the trials that would have been trained by then."""
    looks, trained = [], dict.fromkeys(study.arms, FIRST_LOOK)
    for seeds in range(FIRST_LOOK, study.max_seeds + 1):
        trials = tuple(t for t in study.trials if t.seed < trained[t.arm])
        now = dataclasses.replace(study, trials=trials, seeds=study.seeds[:seeds])
        looks.append(take_look(now, study.hypothesis, seeds, looks))
        if not looks[-1].arms:
            break
        trained |= dict.fromkeys(looks[-1].arms, seeds + 1)
    return dataclasses.replace(now, looks=tuple(looks))


def several(effects, direction="better", **fields):
    pairs = tuple((arm, "a") for arm in effects if arm != "a")
    return Hypothesis(claim="c", region="WT", contrasts=pairs, direction=direction, **fields)


@pytest.mark.parametrize(
    ("effects", "direction", "expected", "state"),
    [
        ({"a": 0.0, "b": 0.03, "c": 0.0}, "better", "supported", "gained"),
        ({"a": 0.0, "b": -0.03, "c": -0.02}, "better", "rejected", "below"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "better", "equivalent", "within"),
        ({"a": 0.0, "b": 0.03, "c": 0.0}, "no better", "rejected", "gained"),
        ({"a": 0.0, "b": -0.02, "c": -0.03}, "no better", "supported", "below"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "alike", "supported", "within"),
        ({"a": 0.0, "b": 0.0, "c": -0.04}, "alike", "rejected", "outside"),
    ],
)
def test_the_looks_answer_every_direction(effects, direction, expected, state):
    margin = 0.01 if expected == "equivalent" or state == "within" else 0.005
    claim = several(effects, direction, margin=margin)
    study = run(sequential(effects, claim=claim, **CLEAR))
    last, result = study.looks[-1], verdict(study)
    assert result.answer == claim_answer(last.contrasts, claim) == expected
    assert state in {contrast.state for contrast in last.contrasts}
    assert last.arms == () and f"the claim is {expected}" in last.reason
    assert f"decided after {last.seeds} of at most 8 seeds" in result.sentence
    assert result.sentence.startswith(expected.capitalize())


def test_a_look_has_the_numbers_of_the_first_seeds_at_its_own_level():
    study = sequential({"a": 0.0, "b": 0.01})
    look = take_look(study, study.hypothesis, 4, ())
    (contrast,) = look.contrasts
    layout = difference(
        dataclasses.replace(first_seeds(study, 4), max_seeds=0), "b", "a", "WT"
    ).layout
    half = float(layout.half_width(1 - level(8, 4)))
    assert (contrast.seeds, contrast.paired, contrast.patients) == (4, 4, 40)
    assert contrast.mean == pytest.approx(float(layout.mean))
    assert (contrast.low, contrast.high) == pytest.approx(
        (contrast.mean - half, contrast.mean + half)
    )
    assert contrast.p_value == pytest.approx(float(layout.p_value()))
    assert contrast.level == level(8, 4) and contrast.boundary == pytest.approx(half)


def test_later_seeds_do_not_change_an_earlier_look():
    study = sequential({"a": 0.0, "b": 0.01})
    whole = take_look(study, study.hypothesis, 3, ())
    assert repr(whole) == repr(take_look(first_seeds(study, 3), study.hypothesis, 3, ()))


def test_what_a_fixed_interval_calls_different_at_three_seeds_is_not_decided_yet():
    draws = [sequential({"a": 0.0, "b": 0.012}, draw_seed=i, cases=80) for i in range(30)]
    at_three = [first_seeds(study, 3) for study in draws]
    fixed = [verdict(dataclasses.replace(s, max_seeds=0)).answer for s in at_three]
    looked = [take_look(s, s.hypothesis, 3, ()).contrasts[0].state for s in draws]
    early = sum(a == "supported" for a in fixed)
    assert sum(state == "gained" for state in looked) < early


def test_holm_passes_the_share_of_a_gain_on_and_a_dropped_one_keeps_it():
    levels = [[math.nan] * 3, [0.03] * 3, [0.015] * 3, [0.01] * 3]
    p, mean = [0.009, 0.014, 0.02], [0.01, 0.01, 0.01]
    none = [False] * 3
    gained, used = gain(p, mean, levels, gained=none, alive=[True] * 3, margin=0.005)
    assert gained.tolist() == [True, True, True] and used.tolist() == [0.01, 0.015, 0.03]
    gained, _ = gain(p, mean, levels, gained=none, alive=[False, True, True], margin=0.005)
    assert not gained.any(), "the first was dropped, so three still share the level"
    gained, _ = gain(p, [0.004, 0.01, 0.01], levels, gained=none, alive=[True] * 3, margin=0.005)
    assert not gained.any(), "an estimate below the margin is no gain"


def test_hopeless_and_decided_arms_get_no_more_seeds_and_say_why():
    effects = {"a": 0.0, "b": 0.012, "c": -0.09, "d": 0.0}
    claim = Hypothesis(claim="c", region="WT", contrasts=(("b", "a"), ("c", "a")))
    study = sequential(effects, claim=claim, seed_sd=0.006)
    look = take_look(study, claim, 3, ())
    assert look.arms == ("a", "b")
    assert look.dropped["d"] == "no contrast of the claim needs it"
    assert look.dropped["c"] == (
        "the repeated interval of c \N{MINUS SIGN} a lies below the 0.5 points that matter, "
        "after 3 seeds"
    )
    later = take_look(study, claim, 4, [look])
    assert later.contrasts[1] == look.contrasts[1], "it stays as it was when it stopped"
    assert "c" not in later.dropped and "c" not in later.arms


def test_futility_is_asked_from_the_fourth_look_and_named_in_the_verdict():
    spread = {"seed_sd": 0.012, "case_sd": 0.05, "cases": 15, "rest_sd": 0.03}
    studies = [run(sequential({"a": 0.0, "b": 0.005}, draw_seed=i, **spread)) for i in range(8)]
    assert all(math.isnan(study.looks[0].contrasts[0].conditional_power) for study in studies)
    given_up = [study for study in studies if study.looks[-1].contrasts[0].state == "futile"]
    assert given_up
    for study in given_up:
        last = study.looks[-1].contrasts[0]
        assert last.conditional_power < 0.1 and 4 <= last.seeds < 8
        result = verdict(study)
        assert result.answer == "undecided"
        assert f"stopped after {last.seeds} of at most 8 seeds" in result.sentence
        assert "would hardly be decided before the seeds run out (probability" in result.sentence


def test_a_study_that_spends_its_last_seed_says_so():
    studies = [
        run(sequential({"a": 0.0, "b": 0.012}, max_seeds=4, seed_sd=0.01, draw_seed=i))
        for i in range(6)
    ]
    spent = [s for s in studies if s.looks[-1].seeds == 4 and verdict(s).answer == "undecided"]
    assert spent
    assert "Undecided after the last of 4 seeds" in verdict(spent[0]).sentence
    assert "new study with fresh ones" in verdict(spent[0]).sentence


def test_a_study_between_two_looks_is_undecided_so_far():
    study = sequential({"a": 0.0, "b": 0.01}, seed_sd=0.01)
    assert "the first look is after 3 seeds" in verdict(first_seeds(study, 2)).sentence
    look = take_look(study, study.hypothesis, 3, ())
    assert look.arms == ("a", "b") and look.reason.startswith("Goes on, to at most 8 seeds: ")
    now = dataclasses.replace(first_seeds(study, 3), looks=(look,))
    assert "Undecided so far, after 3 of at most 8 seeds" in verdict(now).sentence


def test_a_seed_that_had_begun_is_counted_and_the_decision_stands():
    effects = {"a": 0.0, "b": 0.03, "c": 0.012}
    claim = several(effects)
    study = sequential(effects, claim=claim, **{**CLEAR, "seed_sd": 0.004})
    decided = run(study)
    seeds = decided.looks[-1].seeds
    assert verdict(decided).answer == "supported" and seeds < 8
    over = take_look(study, claim, seeds + 1, decided.looks)
    assert decided.looks[-1].reason.startswith("Stops, the claim is supported: ")
    assert over.arms == () and over.reason.startswith(
        f"As it stood after {seeds} seeds, the claim "
    )
    assert over.contrasts[0] == decided.looks[-1].contrasts[0]
    counted = dataclasses.replace(first_seeds(study, seeds + 1), looks=(*decided.looks, over))
    assert verdict(counted).answer == "supported"
    assert f"decided after {seeds} of at most 8 seeds" in verdict(counted).sentence


def test_a_lost_seed_is_tested_at_the_level_of_the_seeds_that_are_paired():
    study = sequential({"a": 0.0, "b": 0.01}, seed_sd=0.01)
    trials = tuple(
        dataclasses.replace(t, status="KILLED", test_cases=[]) if (t.arm, t.seed) == ("b", 1) else t
        for t in study.trials
    )
    study = dataclasses.replace(study, trials=trials)
    third = take_look(study, study.hypothesis, 3, ())
    assert third.contrasts[0].state == "missing" and third.arms == ("a", "b")
    fourth = take_look(study, study.hypothesis, 4, [third])
    assert fourth.contrasts[0].paired == 3 and fourth.contrasts[0].level == level(8, 3)


def test_failures_of_one_arm_stop_its_contrast_until_they_are_mended():
    effects = {"a": 0.0, "b": 0.01, "c": 0.01}
    study = sequential(effects, claim=several(effects), failed={("b", 1)}, seed_sd=0.01)
    look = take_look(study, study.hypothesis, 3, ())
    assert look.contrasts[0].state == "missing" and look.arms == ("a", "c")
    assert "runs failed unevenly (b 1 time, a 0 times)" in look.dropped["b"]
    alone = Hypothesis(claim="c", region="WT", better="b", than="a")
    stopped = take_look(study, alone, 3, ())
    assert stopped.arms == () and "failed unevenly" in stopped.reason
    now = dataclasses.replace(first_seeds(study, 3), hypothesis=alone, looks=(stopped,))
    assert verdict(now).answer == "undecided" and "b failed in 1 of 3 runs" in verdict(now).sentence
    mended = sequential(effects, claim=alone, seed_sd=0.01)
    assert take_look(mended, alone, 4, [stopped]).arms == ("a", "b")


def test_an_arm_that_cannot_run_is_left_out_and_the_others_go_on():
    effects = {"a": 0.0, "b": 0.01, "c": 0.01}
    study = sequential(effects, claim=several(effects), seed_sd=0.01)
    trials = tuple(
        dataclasses.replace(t, status="INFEASIBLE", test_cases=[]) if t.arm == "c" else t
        for t in study.trials
    )
    look = take_look(dataclasses.replace(study, trials=trials), study.hypothesis, 3, ())
    assert look.arms == ("a", "b")
    assert "c cannot run on this machine" in look.dropped["c"]


def test_an_arm_that_failed_in_every_seed_gets_no_more():
    effects = {"a": 0.0, "b": 0.01}
    failed = {("b", seed) for seed in range(8)}
    study = run(sequential(effects, failed=failed))
    assert len(study.looks) == 1 and study.looks[0].arms == ()
    assert "b finished none of its 3 seeds" in study.looks[0].reason
    assert (
        verdict(study).answer == "undecided" and "b has no tested trial" in verdict(study).sentence
    )


def test_one_test_patient_never_decides():
    study = run(sequential({"a": 0.0, "b": 0.2}, cases=1))
    assert len(study.looks) == 1 and verdict(study).answer == "undecided"
    assert "one test patient says nothing about other patients" in study.looks[0].reason


def test_folds_are_looked_at_as_one_table():
    study = sequential({"a": 0.0, "b": 0.01}, cases=20)
    parts = tuple(
        dataclasses.replace(t, fold=fold, test_cases=t.test_cases[fold * 10 : fold * 10 + 10])
        for t in study.trials
        for fold in (0, 1)
    )
    folded = dataclasses.replace(study, folds=(0, 1), trials=parts)
    looks = [take_look(s, s.hypothesis, 4, ()) for s in (study, folded)]
    assert repr(looks[0]) == repr(looks[1])


def test_a_trend_and_several_regions_are_looked_at():
    doses = {"depth 0": 0, "depth 1": 1, "depth 2": 2, "depth 4": 4}
    claim = Hypothesis(claim="c", region=("WT", "TC"), contrasts=(Trend(doses),))
    study = run(sequential({k: 0.01 * v for k, v in doses.items()}, claim=claim, **CLEAR))
    assert [c.region for c in study.looks[-1].contrasts] == ["WT", "TC"]
    assert verdict(study).answer == "supported" and "rises by" in verdict(study).sentence
    assert repr(looks_from_rows(looks_as_rows(study.looks))) == repr(study.looks)


def test_a_claim_without_arms_in_the_run_stops_at_once():
    study = sequential({"a": 0.0, "b": 0.0})
    claim = Hypothesis(claim="c", better="d", than="c").within(["a", "b"])
    look = take_look(study, claim, 3, ())
    assert look.arms == () and look.contrasts == () and "lacks the arms" in look.reason


def test_looks_come_back_from_json_with_what_was_not_measured():
    effects = {"a": 0.0, "b": 0.01, "c": 0.0}
    failed = {("c", seed) for seed in range(3)}
    study = run(sequential(effects, claim=several(effects), failed=failed, seed_sd=0.01))
    rows = json.loads(json.dumps(looks_as_rows(study.looks), allow_nan=False))
    assert len(rows) == 2 * len(study.looks)
    assert repr(looks_from_rows(rows[::-1][::-1])) == repr(study.looks)
    stored = json.loads(json.dumps(dataclasses.asdict(study)))
    again = study_from({**stored, "trials": (), "data": stored["data"]})
    assert repr(again.looks) == repr(study.looks) and again.max_seeds == 8
    del stored["looks"], stored["max_seeds"]
    old = study_from({**stored, "trials": ()})
    assert old.looks == () and old.max_seeds == 0


def test_tables_of_such_a_study_show_repeated_intervals_and_their_holm():
    effects = {"a": 0.0, "b": 0.02, "c": 0.001}
    study = run(sequential(effects, claim=several(effects)))
    rows = compare_arms(study)
    for row in rows:
        d = row.regions["WT"]
        assert (d.p_value < 0.05) == (d.low > 0 or d.high < 0)
        fixed = difference(dataclasses.replace(study, max_seeds=0), d.arm, "a", "WT")
        assert d.low < fixed.low and fixed.high < d.high
    assert all(row.p_holm >= row.regions["WT"].p_value for row in rows)


def test_a_further_claim_is_exploratory_and_at_a_level_that_holds_whenever_it_stopped():
    second = Hypothesis(claim="s", region="ET", better="b", than="a")
    study = run(sequential({"a": 0.0, "b": 0.03}, secondary=(second,), **CLEAR))
    result = verdict(study, second)
    assert result.answer == "supported" and "The first claim chose" in result.sentence
    first = verdict(study)
    assert "Exploratory" not in first.sentence


def test_a_limit_that_the_table_lacks_is_refused():
    study = dataclasses.replace(sequential({"a": 0.0, "b": 0.0}), max_seeds=30)
    with pytest.raises(UserError, match="--max-seeds 30"):
        take_look(study, study.hypothesis, 3, ())


def test_the_product_ends_simulated_studies_as_the_benchmark_does(load_benchmark):
    simulated, races = load_benchmark("simulated_studies"), load_benchmark("sequential_studies")
    rng = np.random.default_rng(3)
    spread = {"seed_sd": 0.8, "case_sd": 2, "rest_sd": 3}
    d = simulated.simulate(
        rng, simulated.normal(rng), studies=8, arms=3, seeds=7, cases=20, **spread
    )
    d[:, 0] += np.linspace(-3, 4, 8)[:, None, None]
    summary = races.tables(d)
    outcome = races.race(summary, summary.rows, max_seeds=7)
    assert outcome.supported.any() and not outcome.supported.all()
    assert races.disagreements(d, outcome, max_seeds=7, chosen=range(8)) == 0


def test_false_alarms_stay_below_three_percent_when_looked_at_after_every_seed(load_benchmark):
    simulated, races = load_benchmark("simulated_studies"), load_benchmark("sequential_studies")
    rng = np.random.default_rng(0)
    shape = {"studies": 4000, "arms": 2, "seeds": 8, "cases": 20}
    d = simulated.simulate(rng, simulated.normal(rng), **shape, seed_sd=2, case_sd=5, rest_sd=5)
    summary = races.tables(d)
    outcome = races.race(summary, summary.rows, max_seeds=8)
    assert outcome.supported.mean() <= 0.03


def test_an_arm_that_the_claim_shows_to_be_worse_is_not_bold_beside_its_verdict():
    from segmamba.studies.standing import not_shown_worse

    # c is best by its mean and, in the few runs, too uncertain to show b to be worse than it
    study = synthetic_study(
        {"a": 0.05, "b": 0.0, "c": 0.06}, seeds=3, cases=40, better="a", than="b"
    )
    bold = not_shown_worse(study, "dice_mean")
    gained = ContrastLook(arm="a", versus="b", region="mean", seeds=3, state="gained")
    look = Look(seeds=3, contrasts=(gained,), arms=(), reason="")
    looked = dataclasses.replace(study, max_seeds=5, looks=(look,))
    assert "b" not in not_shown_worse(looked, "dice_mean")
    assert not_shown_worse(looked, "dice_mean") <= bold
    assert {"a", "c"} <= not_shown_worse(looked, "dice_mean")
