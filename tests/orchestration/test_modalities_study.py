"""The ablation of modality dropout itself, tiny, on files of which one lacks a modality."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segmamba.config import load_config
from segmamba.evaluation.modality_subsets import SUBSETS, subset_score
from segmamba.training.final_metrics import read_final_metrics
from tests.conftest import write_case
from tests.tiny import TINY_CHANGES

ROOT = Path(__file__).parents[2]
CHANGES = TINY_CHANGES | {"train.epochs": 1, "optim.warmup_epochs": 0, "data.missing": "zeros"}


def _assignment(name, value):
    return f"{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(folder of the study, finished process)."""
    cwd = tmp_path_factory.mktemp("modalities")
    for number in range(6):
        folder = write_case(cwd / "data", f"C{number}", shape=(32, 32, 32), seed=number)
        if number == 2:
            (folder / "C2_t2.nii.gz").unlink()
    settings = [part for pair in CHANGES.items() for part in ("--set", _assignment(*pair))]
    script = ROOT / "experiments" / "ablate_modalities.py"
    options = ("--data", "data", "--seeds", "1", "--no-viewer")
    command = [sys.executable, script, *options, *settings]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)
    return cwd / "Results" / "ablate_modalities_Run01", process


def test_it_ends_well_and_says_what_is_missing(study):
    folder, process = study
    assert process.returncode == 0, process.stderr + process.stdout
    assert "T2 is missing in 1 of 6 cases" in process.stdout + (folder / "report.md").read_text()


def test_the_arms_differ_in_dropout_alone_and_every_subset_is_scored(study):
    trials = {path.name: path for path in (study[0] / "trials").iterdir()}
    plain, dropout = (
        load_config(trials[f"{arm}_seed0"] / "config.json") for arm in ("no-dropout", "dropout")
    )
    assert plain.changed({"augment.modality_dropout": (0.25,) * 4}) == dropout
    for path in trials.values():
        final = read_final_metrics(path / "metrics" / "final_metrics.json")
        for row in final.cases:
            values = [row[f"{subset_score(subset)}_mean"] for subset in SUBSETS]
            assert len(values) == 15 and all(0 <= value <= 1 for value in values)
        assert math.isfinite(final.metrics["test/one_missing_dice_mean"])


def test_the_report_has_a_row_for_each_subset_and_mlflow_the_columns(study):
    folder, _ = study
    text = (folder / "report.md").read_text()
    for label in ("all four", "T1, T1ce, T2", "FLAIR", "mean of one missing"):
        assert f"\n| {label} |" in text, label
    assert (folder / "plots" / "subsets.png").exists()
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("segmamba")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert {run.data.tags["arm"] for run in runs} == {"no dropout", "dropout"}
    assert all("test/only_T1-T2_dice_WT" in run.data.metrics for run in runs)
