"""What the terminal shows of trials, as lines and as a table."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split
from segmamba.orchestration.engine import trainable
from segmamba.orchestration.engine.context import StudyContext
from segmamba.orchestration.engine.progress import StudyProgress, folder_of
from segmamba.studies.spec import TrialPlan
from segmamba.training.run_folder import steps_file
from segmamba.training.step_file import StepFile
from tests.conftest import write_case
from tests.tiny import TINY

PLANS = [TrialPlan(arm=arm, seed=0) for arm in ("a", "b")]


@pytest.fixture
def shown():
    """(StudyProgress of two trials of three epochs, function that gives what it has printed)."""
    screen = io.StringIO()
    progress = StudyProgress(Console(file=screen, width=120))
    progress.trials(PLANS, epochs=3, at_once=1)
    return progress, screen.getvalue


def test_a_line_of_a_trial_gives_its_best_dice_in_points(shown):
    progress, text = shown
    progress.started(PLANS[0].key)
    progress.reported(
        PLANS[0].key, {"epoch": 3, "val/dice_mean": 0.5, "val/best_dice_mean": 0.7068}
    )
    progress.completed(PLANS[0].key)
    assert text() == "[1/2] a, seed 0: done in 0:00 min, best validation Dice 70.7, 0:00 min left\n"
    table = io.StringIO()
    Console(file=table, width=120).print(progress._table())
    assert "50.0" in table.getvalue() and "70.7" in table.getvalue()


def test_a_line_of_a_trial_whose_dice_is_unknown_leaves_it_out(shown):
    progress, text = shown
    progress.started(PLANS[0].key)
    progress.completed(PLANS[0].key)
    assert text() == "[1/2] a, seed 0: done in 0:00 min, ? left\n"


def test_a_trial_that_is_resumed_after_its_last_epoch_is_tested_with_all_of_them(shown, tmp_path):
    progress, _ = shown
    progress.watch(tmp_path)
    progress.started(PLANS[0].key)
    file = steps_file(folder_of(tmp_path, PLANS[0].key))
    file.parent.mkdir(parents=True)
    StepFile(file, steps=4, patches=1, validation=2, test=2).on_test_case(1)
    table = io.StringIO()
    Console(file=table, width=120).print(progress._table())
    assert "testing" in table.getvalue() and "3/3" in table.getvalue()
    assert "0/3" in table.getvalue(), "the other trial waits"


def test_epochs_of_pretraining_are_not_taken_for_epochs_of_the_trial(shown, tmp_path):
    progress, _ = shown
    progress.watch(tmp_path)
    first, second = PLANS[0].key, PLANS[1].key
    progress.started(first)
    progress.completed(first)
    row = progress.rows[first]
    row.epoch, row.seconds = 3, 30.0
    progress.started(second)
    file = steps_file(folder_of(tmp_path, second))
    file.parent.mkdir(parents=True)
    StepFile(file, steps=4, patches=1, validation=2, test=2).on_pretraining_step(50, 4)
    assert progress.left_s() == 30.0


def test_the_time_left_is_that_of_the_epochs_left_where_a_start_goes_on_with_a_trial(
    shown, monkeypatch
):
    """A trial of three epochs, of which an earlier start had trained one; an epoch takes 60 s."""
    progress, _ = shown
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress.started(PLANS[0].key)
    now[0] += 60
    progress.reported(PLANS[0].key, {"epoch": 2})
    assert progress.left_s() == 60 * (1 + 3)


class AnyLog:
    """Stands in for a RunLog that reaches its store at once."""

    away_because = ""

    def __getattr__(self, name):
        return lambda *values: None

    def close(self, seconds):
        return True


def test_a_trial_that_was_trained_before_a_resume_is_listed_with_its_best_dice(
    shown, tmp_path, monkeypatch
):
    for number in range(3):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}", shape=(24, 24, 24), seed=number)
    cases = prepare_cases(find_cases(tmp_path), tmp_path / "cache", TINY.data, workers=1)
    split = Split(cases[:1], cases[1:2], cases[2:], False, ())
    run = SimpleNamespace(trial_log=lambda key, tags: AnyLog())
    context = StudyContext({"a": TINY}, {None: ({}, split)}, tmp_path, run, {}, 1, "never", "a")
    reports = []
    monkeypatch.setattr(StudyContext, "trial_tags", lambda context, plan: {})
    monkeypatch.setattr(trainable, "report_epoch", lambda *epoch: None)
    monkeypatch.setattr(trainable, "tune", SimpleNamespace(report=reports.append))
    for _ in range(2):
        trainable.run_trial({"trial": PLANS[0]}, context)
    first, resumed = reports
    assert resumed["val/best_dice_mean"] == first["val/best_dice_mean"]
    progress, text = shown
    progress.started(PLANS[0].key)
    progress.reported(PLANS[0].key, resumed)
    progress.completed(PLANS[0].key)
    assert f"best validation Dice {100 * first['val/best_dice_mean']:.1f}" in text()
