"""What a terminal of 80, 100 and 120 columns shows of a training and of a stopped study."""

import dataclasses
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from segmamba.commands import study as study_command
from segmamba.commands.run_progress import RunProgress
from segmamba.commands.shared import STOPPED
from segmamba.data.parallel import map_cases
from segmamba.errors import Stopped
from segmamba.reports.terminal import LEGEND, render_terminal
from tests.studies.synthetic import synthetic_study
from tests.tiny import CPU, TINY

WIDTHS = pytest.mark.parametrize("width", [80, 100, 120])
METRICS = {
    "train/loss": 0.8124,
    "val/dice_mean": 0.5,
    "val/best_dice_mean": 0.7068,
    "time/patches_per_s": 84.2,
    "memory/gpu_peak_gib": 13.7,
}


def plain(text):
    """The lines of what a terminal got, without its control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n").splitlines()


@WIDTHS
def test_a_training_shows_loss_rate_and_steps_and_breaks_no_word(width):
    screen = io.StringIO()
    console = Console(file=screen, width=width, force_terminal=True, no_color=True)
    data = SimpleNamespace(train=[0], validation=[0] * 8, test=[0] * 9)
    config = TINY.changed({"train.epochs": 300, "train.steps_per_epoch": 250})
    with RunProgress(console) as progress:
        progress.on_begin(
            SimpleNamespace(root=Path("Results/SegMamba_Run01")), config, CPU, data, "phantom"
        )
        progress.on_epoch(SimpleNamespace(number=1, metrics=METRICS))
        progress.on_step(2, 1)
        progress.on_step(2, 120)
        progress._bar._bar.refresh()
        at_a_step = screen.getvalue()
        progress.on_validation_case(2, 3)
        progress._bar._bar.refresh()
        progress.on_test_case(9)
        progress.on_test_case(10)
        progress._bar._bar.refresh()
    lines = plain(at_a_step)
    assert max(map(len, lines)) <= width
    assert any("epoch 2/300, step" in line and "120/250" in line for line in lines)
    shown = " ".join(" ".join(lines).split())
    assert "loss 0.812, Dice 50.0 (best 70.7)" in shown and " patches/s, 13.7 GiB, " in shown
    rest = plain(screen.getvalue())
    assert any("epoch 2/300, validation case" in line and "3/8" in line for line in rest)
    assert any("testing, case" in line and "1/9" in line for line in rest)


@WIDTHS
def test_one_line_explains_the_short_words_of_the_result_table(width):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=3, cases=4)
    screen = io.StringIO()
    render_terminal(study, Console(file=screen, width=width))
    lines = screen.getvalue().splitlines()
    (header,) = [line for line in lines if line.startswith("arm ")]
    titles = header.split()
    legend = [line for line in lines if line in "; ".join(LEGEND.values()) and line]
    assert all(
        (meaning in screen.getvalue()) == (name in titles) for name, meaning in LEGEND.items()
    )
    assert max(map(len, lines)) <= width and len(legend) <= 1


@pytest.mark.parametrize("finished", [0, 3])
def test_a_stopped_study_shows_no_empty_table_and_no_verdict(finished, monkeypatch, capsys):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=3, cases=4)
    trials = tuple(
        trial
        if number < finished
        else dataclasses.replace(trial, status="KILLED", metrics={}, test_cases=[])
        for number, trial in enumerate(study.trials)
    )
    stopped = dataclasses.replace(study, trials=trials)
    monkeypatch.setattr(
        "segmamba.orchestration.study.run_study", lambda *given: (stopped, Path("Results/x_Run01"))
    )
    assert study_command.run_declared(None, None, as_json=False) == 130
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(lines)
    assert "ndecided" not in text and ("arm " in text) == bool(finished)
    assert lines[-1] == STOPPED and f"trials   {finished} of 6 are done" in lines
    assert not finished or "a " in text


def test_ctrl_c_while_cases_are_prepared_is_no_fault_of_a_case(tmp_path):
    def interrupted(case):
        raise Stopped(2)

    file = tmp_path / "image"
    file.write_text("")
    with pytest.raises(Stopped):
        map_cases(interrupted, [SimpleNamespace(id="a", files=[file])], lost=str, workers=1)
