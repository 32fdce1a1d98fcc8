"""Whoever reads the terminal sees Dice in points, from 0 to 100; files and JSON keep 0 to 1."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from segmamba.commands import studies
from segmamba.commands.run_progress import RunProgress
from segmamba.evaluation import compare, summary, tune, tune_report
from segmamba.evaluation.rules import LEGACY
from segmamba.orchestration.engine.progress import StudyProgress
from tests.tiny import CPU, TINY


@pytest.fixture
def console():
    return Console(width=120)


def test_in_the_line_of_an_epoch(console, capsys):
    split = SimpleNamespace(train=[1], validation=[2], test=[3])
    metrics = {"train/loss": 0.5, "val/dice_mean": 0.7074, "val/best_dice_mean": 0.7136}
    with RunProgress(console) as progress:
        progress.on_begin(SimpleNamespace(root="run"), TINY, CPU, split, "data")
        progress.on_epoch(SimpleNamespace(number=1, metrics=metrics))
    assert "epoch 1/3: loss 0.500, Dice 70.7 (best 71.4), " in capsys.readouterr().out


def test_in_the_lines_of_a_study(console, capsys):
    with StudyProgress(console) as progress:
        progress.trials([SimpleNamespace(key="depth 2, seed 0")], 3, 1)
        progress.started("depth 2, seed 0")
        progress.reported("depth 2, seed 0", {"epoch": 3, "val/best_dice_mean": 0.7136})
        progress.completed("depth 2, seed 0")
    assert "best validation Dice 71.4" in capsys.readouterr().out


def test_in_the_list_of_studies(monkeypatch, capsys):
    row = {"study": "s_Run01", "began": "", "state": "finished", "trials": 2, "finished": 2}
    row |= {"best_dice_mean": 0.7136, "verdict": "supported", "question": ""}
    monkeypatch.setattr("segmamba.orchestration.listing.list_studies", lambda output: [row])
    studies.studies()
    assert " 71.4 " in capsys.readouterr().out


def test_in_the_table_of_an_evaluation(console, capsys):
    scores = {"mean": 0.7074, "median": 0.71364, "sd": 0.1, "low": 0.6, "high": 0.8}
    metrics = dict.fromkeys(("dice", "hd95_mm", "nsd_1mm", "sensitivity", "specificity"), scores)
    evaluation = SimpleNamespace(
        about={"cases": 3, "rules": {}, "notes": []},
        summary={"scores": {LEGACY: {"WT": metrics}}, "empty": {}},
        rows=[],
    )
    summary.render(evaluation, console)
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:5] == ["WT", "70.74", "60.0-80.0", "71.36", "10.0"]
    assert row[5:] == ["0.71", "0.6-0.8", "0.71", "70.7", "0.707", "0.70740"], (
        "the others keep their units"
    )


def test_in_the_table_of_a_comparison(console, capsys):
    figures = {"mean_a": 0.7136, "mean_b": 0.7074, "difference": 0.0062, "low": 0.001, "high": 0.01}
    paired = tuple(
        compare.Paired(
            rule=LEGACY, region="WT", metric=metric, **figures, higher=2, lower=1, rank_p=0.5
        )
        for metric in compare.METRICS
    )
    about = {"cases": 3, "patients": 3, "rules": {LEGACY: ""}, "notes": []}
    compare.render(compare.Comparison(about=about, paired=paired, rows=[], verdicts={}), console)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "WT Dice 71.36 70.74 0.62 0.10 to 1.00 2 1 0.500" in shown
    assert "WT HD95 mm 0.71 0.71 0.01 0.00 to 0.01 2 1 0.500" in shown


def test_in_the_table_of_the_post_processing(console, capsys):
    tune_report.render([tune.Step("threshold WT", {"0.5": 0.7074, "0.6": 0.7136}, "0.6")], console)
    assert "0.5: 70.74  0.6: 71.36" in capsys.readouterr().out
