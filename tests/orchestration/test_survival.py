"""A study whose trial process is killed ends as if nothing had happened."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "train.epochs": "3", "train.steps_per_epoch": "6", "train.validate_every_epochs": "1", "optim.warmup_epochs": "0",
    "phantom.cases": "6", "phantom.size": "48,48,48", "data.spacing_mm": "4", "data.patch_size": "32,32,32", "model.base_channels": "4",
}  # fmt: skip


def start(cwd):
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, ROOT / "experiments" / "ablate_depth.py", "--seeds", "1", "--arms", "depth 2", "--cpus", "1", *settings]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trial_processes(study):
    """The workers that run a function trainable, by the title that Ray gives them."""
    found = []
    for process in psutil.Process(study.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "ImplicitFunc" in " ".join(process.cmdline()) else []
    return found


def judged(cwd):
    final = json.loads(next(cwd.glob("Results/ablate_depth_Run01/trials/*/metrics/final_metrics.json")).read_text())
    return {name: value for name, value in final.items() if not name.startswith("time/")}


@pytest.mark.slow
def test_a_killed_trial_process_changes_no_result_and_leaves_no_gap(tmp_path):
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    calm = start(tmp_path / "calm")
    output, _ = calm.communicate(timeout=400)
    assert calm.returncode == 0, output

    study, victims = start(tmp_path / "killed"), []
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not victims:
        if list((tmp_path / "killed").glob("Results/ablate_depth_Run01/trials/*/checkpoints/last.pth")):
            victims = trial_processes(study)
        time.sleep(0.05)
    assert victims, "the trial's process was found and had saved its first epoch"
    for victim in victims:
        victim.kill()
    output, _ = study.communicate(timeout=400)
    assert study.returncode == 0, output

    assert judged(tmp_path / "killed") == judged(tmp_path / "calm")
    client = MlflowClient(f"sqlite:///{tmp_path}/killed/Results/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    assert sorted(run.data.tags["kind"] for run in runs) == ["study", "trial"] and {run.info.status for run in runs} == {"FINISHED"}
    (trial,) = (run for run in runs if run.data.tags["kind"] == "trial")
    assert [m.step for m in client.get_metric_history(trial.info.run_id, "val/dice_mean")] == [1, 2, 3]
