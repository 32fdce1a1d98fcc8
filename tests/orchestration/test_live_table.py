"""The live table of a study at the terminal."""

import io
import json
import re
import time

import pytest
from rich.console import Console

from segmamba.orchestration.engine import progress as progress_module
from segmamba.orchestration.engine.context import trial_folder
from segmamba.orchestration.engine.live_table import LEGEND
from segmamba.orchestration.engine.progress import SHOWN_ROWS, StudyProgress, folder_of
from segmamba.studies.spec import TrialPlan
from segmamba.training import step_file
from segmamba.training.run_folder import RunFolder, steps_file
from segmamba.training.step_file import StepFile, Steps, read_steps

NAMES = ("no deep supervision", "squeeze-and-excitation attention", "instance norm")
EPOCH = {
    "epoch": 12,
    "val/dice_mean": 0.5,
    "val/best_dice_mean": 0.7068,
    "train/loss": 0.8124,
    "time/patches_per_s": 84.21,
}


def drawn(progress, width):
    """The lines of the table in a terminal of this width."""
    screen = io.StringIO()
    progress.console = Console(file=screen, width=width, force_terminal=True, no_color=True)
    progress.console.print(progress._table())
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    return [line.rstrip() for line in text.splitlines()]


@pytest.fixture
def running(tmp_path):
    """A StudyProgress of three trials, the first of which is in its 13th epoch of 300."""
    progress = StudyProgress(Console(file=io.StringIO(), width=100))
    plans = [TrialPlan(arm=arm, seed=0) for arm in NAMES]
    progress.watch(tmp_path)
    progress.trials(plans, epochs=300, at_once=2)
    progress.started(plans[0].key)
    progress.reported(plans[0].key, EPOCH)
    file = RunFolder(trial_folder(tmp_path, plans[0])).steps
    steps = StepFile(file, steps=250, patches=4, validation=8, test=9)
    steps.on_step(13, 1)
    steps._written_at = float("-inf")
    steps.on_step(13, 120)
    return progress, steps


def test_the_live_table_of_many_trials_shows_what_runs():
    progress = StudyProgress(Console(file=io.StringIO(), width=100))
    plans = [TrialPlan(arm=f"arm {i}", seed=0) for i in range(100)]
    progress.trials(plans, epochs=6, at_once=2)
    for plan in plans[:60]:
        progress.started(plan.key)
        progress.completed(plan.key)
    progress.started(plans[60].key)
    shown = [key for key, _ in progress._shown()]
    assert len(shown) == SHOWN_ROWS
    assert plans[60].key in shown and plans[61].key in shown
    assert plans[0].key not in shown
    screen = io.StringIO()
    Console(file=screen, width=100).print(progress._table())
    assert "60 of 100 trials" in screen.getvalue() and "and 76 more" in screen.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_and_breaks_no_word(running, width):
    lines = drawn(running[0], width)
    assert max(map(len, lines)) <= width
    words = {word.strip(",") for line in lines for word in line.split()}
    assert {word for name in NAMES for word in name.split()} <= words
    assert {"training", "13/300", "48", "0.812", "50.0", "patches/s", "waiting"} <= words
    assert lines.count(LEGEND) == 1 and lines[-1] == LEGEND


def test_the_table_says_where_a_trial_is_within_its_epoch(running):
    progress, steps = running
    row = next(line for line in drawn(progress, 120) if "training" in line)
    assert "13/300" in row and "48 %" in row
    steps._written_at = float("-inf")
    steps.on_validation_case(13, 2)
    row = next(line for line in drawn(progress, 120) if "validating" in line)
    assert "13/300" in row and "25 %" in row and "84.2" in row
    steps._written_at = float("-inf")
    steps.on_test_case(9)
    row = next(line for line in drawn(progress, 120) if "testing" in line)
    assert "12/300" in row and "100 %" in row


def test_an_epoch_that_is_whole_is_not_shown_as_half_done(running):
    progress, _ = running
    progress.reported(f"{NAMES[0]}, seed 0", EPOCH | {"epoch": 13})
    row = next(line for line in drawn(progress, 120) if "running" in line)
    assert "13/300" in row and "48 %" not in row


@pytest.mark.parametrize(
    "plan",
    [
        TrialPlan(arm="depth 2", seed=3),
        TrialPlan(arm="a, seed 1", seed=0, fold=2),
        TrialPlan(arm="x\ny", seed=12, fold=0),
    ],
    ids=str,
)
def test_the_folder_of_a_trial_follows_from_its_key(plan, tmp_path):
    assert folder_of(tmp_path, plan.key) == trial_folder(tmp_path, plan)


def test_the_file_of_steps_is_written_once_a_second_and_never_ends_a_run(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(step_file.time, "monotonic", lambda: now[0])
    file = steps_file(tmp_path)
    steps = StepFile(file, steps=10, patches=4, validation=3, test=3)
    steps.on_step(1, 1)  # there is no folder
    assert read_steps(file) is None
    file.parent.mkdir()
    now[0] += 2
    steps.on_step(1, 3)
    whole = Steps(phase="training", epoch=1, done=3, total=10, patches_per_s=4.0)
    assert read_steps(file) == whole
    now[0] += 0.5
    steps.on_step(1, 4)
    assert read_steps(file) == whole and [path.name for path in file.parent.iterdir()] == [
        file.name
    ]
    file.write_text(json.dumps({"phase": "training"}))
    assert read_steps(file) is None


def test_a_log_hears_of_epochs_where_nothing_else_was_said_for_a_while(monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    screen = io.StringIO()
    progress = StudyProgress(Console(file=screen, width=100))
    plan = TrialPlan(arm="a", seed=0)
    progress.trials([plan], epochs=300, at_once=1)
    progress.started(plan.key)
    progress.reported(plan.key, EPOCH)
    assert screen.getvalue() == ""
    now[0] += progress_module.QUIET_S
    progress.reported(plan.key, EPOCH)
    assert (
        "[0/1] a, seed 0: epoch 12/300, loss 0.812, Dice 50.0 (best 70.7), 84.2 patches/s, "
        in screen.getvalue()
    )
    progress.reported(plan.key, EPOCH)
    assert screen.getvalue().count("\n") == 1


def test_no_time_is_left_where_every_trial_failed_before_its_first_epoch():
    progress = StudyProgress(Console(file=io.StringIO(), width=100))
    plan = TrialPlan(arm="a", seed=0)
    assert progress.left_s() is None
    progress.trials([plan], epochs=3, at_once=1)
    progress.started(plan.key)
    assert progress.left_s() is None
    progress.failed(plan.key, "no reason", "log")
    assert progress.left_s() == 0
