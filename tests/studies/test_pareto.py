"""Which arms are on the front of Dice against a cost, and what is left out of it."""

import dataclasses
import math

import pytest

from segmamba.studies.pareto import fronts
from tests.studies.synthetic import synthetic_study

COSTS = ("time/train_total_s", "time/predict_case_s", "memory/gpu_peak_gib", "model/parameters")


def priced(costs, effects=None, metric="memory/gpu_peak_gib", **options):
    """A study whose arms cost what `costs` says: {arm: a value, or one for each seed}."""
    study = synthetic_study(effects or dict.fromkeys(costs, 0.0), cases=12, epochs=1, **options)
    trials = []
    for trial in study.trials:
        cost = costs[trial.arm]
        value = cost[trial.seed] if isinstance(cost, (list, tuple)) else cost
        metrics = {k: v for k, v in trial.metrics.items() if k not in COSTS}
        if value is not None and trial.status == "FINISHED":
            metrics[metric] = value
        trials.append(dataclasses.replace(trial, metrics=metrics))
    return dataclasses.replace(study, trials=tuple(trials))


def front(study, key="memory"):
    (found,) = [one for one in fronts(study) if one.cost.key == key]
    return found


def test_an_arm_that_costs_more_and_scores_less_is_behind_the_best_of_those_that_beat_it():
    effects = {"small": 0.0, "large": 0.2, "waste": 0.1, "huge": 0.15}
    found = front(priced({"small": 1.0, "large": 3.0, "waste": 3.5, "huge": 9.0}, effects, seeds=3))
    behind = {arm.arm: arm.behind for arm in found.arms}
    assert behind == {"small": "", "large": "", "waste": "large", "huge": "large"}
    assert [arm.arm for arm in found.best] == ["small", "large"]
    waste = found.arms[2]
    assert waste.gap.mean == pytest.approx(0.1, abs=0.03) and waste.gap.low < waste.gap.mean
    assert waste.dice_low < waste.dice < waste.dice_high


def test_two_arms_of_one_cost_and_one_dice_share_the_front():
    study = priced({"a": 2.0, "b": 2.0}, seeds=2)
    same = {trial.seed: trial.test_cases for trial in study.trials if trial.arm == "a"}
    trials = tuple(dataclasses.replace(t, test_cases=same[t.seed]) for t in study.trials)
    found = front(dataclasses.replace(study, trials=trials))
    assert not any(arm.behind for arm in found.arms)
    assert [arm.share for arm in found.arms] == [1.0, 1.0]


def test_luck_of_seeds_and_patients_moves_an_arm_on_and_off_the_front():
    effects = {"cheap": 0.0, "dear": 0.001, "better": 0.2}
    found = front(priced({"cheap": 1.0, "dear": 2.0, "better": 3.0}, effects, seeds=3))
    share = {arm.arm: arm.share for arm in found.arms}
    assert share["cheap"] == share["better"] == 1.0 and 0.02 < share["dear"] < 0.98
    once = front(priced({"cheap": 1.0, "dear": 2.0}, seeds=1))
    assert all(math.isnan(arm.share) for arm in once.arms)


@pytest.mark.parametrize("wrong", [-3.0, 0.0, math.nan, math.inf])
def test_a_cost_that_cannot_be_is_left_out_and_named(wrong):
    found = front(priced({"a": [2.0, wrong], "b": 3.0}, seeds=2))
    assert [(arm.arm, arm.cost, arm.low, arm.high) for arm in found.arms] == [
        ("a", 2.0, 2.0, 2.0),
        ("b", 3.0, 3.0, 3.0),
    ]
    (note,) = found.notes
    assert note.startswith("a, seed 1: memory/gpu_peak_gib is ") and "cannot be" in note


def test_an_arm_without_a_cost_is_left_out_and_named():
    found = front(priced({"a": 2.0, "b": None, "c": 1.0}, seeds=2))
    assert [arm.arm for arm in found.arms] == ["a", "c"]
    assert found.notes == ("b: no GPU memory, left out of its picture",)


def test_a_cpu_has_no_gpu_memory_and_the_front_says_so():
    study = priced({"a": None, "b": None}, seeds=2)
    found = front(study)
    assert found.arms == () and "no finished trial has memory/gpu_peak_gib" in found.notes[0]
    on_cpu = dataclasses.replace(study, environment={"gpu": "none"})
    assert front(on_cpu).notes == ("GPU memory: not drawn, the trials ran on a CPU",)
    assert "CPU" not in front(on_cpu, "parameters").notes[0]


def test_where_nothing_was_tested_there_is_no_front():
    study = synthetic_study({"a": 0.0, "b": 0.1}, seeds=1, cases=3, failed={("a", 0), ("b", 0)})
    assert fronts(study) == []
