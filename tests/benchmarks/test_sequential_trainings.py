"""Studies that add seeds, with real trainings: the benchmark in a small form."""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.studies.verdict import verdict
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder
from tests.benchmarks.test_figures import FOLDER
from tests.conftest import write_case
from tests.tiny import CPU, TINY

PARTS = ("figures", "sequential_studies", "sequential_trainings")


@pytest.fixture
def benchmark(monkeypatch) -> Iterator[ModuleType]:
    """The script, which imports its neighbours by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("sequential_trainings")
    yield module
    for name in PARTS:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """A folder with data of three cases in the place of a phantom."""
    for number in range(3):
        write_case(tmp_path / "phantom", f"BraTS20_Training_{number:03d}", shape=(16, 16, 16))
    return tmp_path


def scored(gain: float, noise: float):
    """A training that scores 0.5, and `gain` more at the full learning rate."""

    def train_and_test(config, split):
        rng = np.random.default_rng(config.seed)
        level = 0.5 + gain * (config.optim.lr > 1e-3) + noise * rng.standard_normal()
        values = level + noise * rng.standard_normal(20)
        return [
            {"case": f"{i}", "patient": f"{i}", "dice_WT": float(value)}
            for i, value in enumerate(values)
        ]

    return train_and_test


def test_a_training_scores_what_a_run_in_a_folder_scores(benchmark, folder):
    config = TINY.changed({"train.epochs": 1, "train.test_last": False})
    cases = find_cases(folder / "phantom")
    split = split_cases(prepare_cases(cases, folder / "cache", config.data), config.data)
    split = dataclasses.replace(split, test=split.test[:1])
    run = RunFolder(folder / "run")
    for _ in train_run(config, split, run, CPU):
        pass
    whole = evaluate_run(config, split, run, CPU).cases
    assert benchmark.train_and_test(config, split) == whole


def test_no_two_trainings_of_the_script_share_a_seed(benchmark):
    plans = [benchmark.Plan(number, benchmark.EQUAL_ARMS, TINY) for number in (0, 1, 29)]
    seeds = [
        plan.config(benchmark.TrialPlan(arm=arm, seed=seed, fold=None)).seed
        for plan in plans
        for arm in plan.arms
        for seed in range(plan.max_seeds)
    ]
    assert len(set(seeds)) == 3 * 2 * 10


def test_a_planted_difference_is_found_early_and_equal_arms_are_given_up(
    benchmark, folder, monkeypatch
):
    monkeypatch.setattr(benchmark, "train_and_test", scored(gain=0.3, noise=0.02))
    base = TINY.changed({"optim.lr": 1e-2})
    planted = benchmark.run_study(benchmark.Plan(0, benchmark.PLANTED_ARMS, base), folder)
    equal = benchmark.run_study(benchmark.Plan(1, benchmark.EQUAL_ARMS, base), folder)
    assert verdict(planted).answer == "supported" and len(planted.trials) == 6
    assert verdict(equal).answer != "supported" and not benchmark.is_alarm(equal)
    figures = benchmark.figures_of([equal], [planted])
    assert figures["equal arms: alarms"].value == 0
    assert figures["planted: seeds, mean"].value == 3
    assert figures["planted: studies that find it"].holds
    assert figures["fixed design, effect known"].value == 4


def test_an_alarm_counts_in_both_directions(benchmark, folder, monkeypatch):
    monkeypatch.setattr(benchmark, "train_and_test", scored(gain=0.3, noise=0.02))
    base = TINY.changed({"optim.lr": 1e-2})
    full, small = {}, {"optim.lr": 1e-4}
    for arms in ({"one": small, "other": full}, {"one": full, "other": small}):
        assert benchmark.is_alarm(benchmark.run_study(benchmark.Plan(0, arms, base), folder))
