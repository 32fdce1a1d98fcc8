"""A study whose trial process is killed ends as if nothing had happened."""

import contextlib
import json
import signal
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


def start(cwd, *options):
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, ROOT / "experiments" / "ablate_depth.py", "--seeds", "1", "--arms", "depth 2", "--cpus", "1", *settings, *options]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(study):
    output, _ = study.communicate(timeout=400)
    assert study.returncode == 0, output
    return output


def trial_processes(study):
    """The workers that run a function trainable, by the title that Ray gives them."""
    found = []
    for process in psutil.Process(study.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "ImplicitFunc" in " ".join(process.cmdline()) else []
    return found


def wait_for_first_epoch(cwd, study):
    """The trial's processes, as soon as the first epoch is on disk."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if list(cwd.glob("Results/ablate_depth_Run01/trials/*/checkpoints/last.pth")):
            victims = trial_processes(study)
            assert victims, "the trial runs in a process of its own"
            return victims
        assert study.poll() is None, study.stdout.read()
        time.sleep(0.05)
    raise AssertionError("no first epoch within 120 s")


def judged(cwd):
    final = json.loads(next(cwd.glob("Results/ablate_depth_Run01/trials/*/metrics/final_metrics.json")).read_text())
    return {name: value for name, value in final.items() if not name.startswith("time/")}


def runs(cwd):
    """({kind: run}, epochs that MLflow has of the trial), where each kind has one run."""
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    by_kind = {run.data.tags["kind"]: run for run in found}
    assert len(found) == len(by_kind) == 2
    return by_kind, [m.step for m in client.get_metric_history(by_kind["trial"].info.run_id, "val/dice_mean")]


def assert_as_if_nothing_had_happened(cwd, calm):
    by_kind, steps = runs(cwd)
    assert {run.info.status for run in by_kind.values()} == {"FINISHED"}
    assert "reason" not in by_kind["trial"].data.tags
    assert steps == [1, 2, 3] and judged(cwd) == judged(calm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of a study that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("calm")
    finish(start(cwd))
    return cwd


@pytest.mark.slow
def test_a_killed_trial_process_changes_no_result_and_leaves_no_gap(calm, tmp_path):
    study = start(tmp_path)
    for victim in wait_for_first_epoch(tmp_path, study):
        victim.kill()
    finish(study)
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
def test_a_study_whose_driver_was_killed_is_resumed_to_the_same_end(calm, tmp_path):
    study = start(tmp_path)
    wait_for_first_epoch(tmp_path, study)
    refused = start(tmp_path, "--resume")
    output, _ = refused.communicate(timeout=100)
    assert refused.returncode == 2 and "still running in another process" in output
    study.kill()
    study.communicate()
    assert "0 of 1 trials are done" in finish(start(tmp_path, "--resume"))
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_study_says_so_closes_its_runs_and_goes_on_with_resume(calm, tmp_path, number):
    study = start(tmp_path)
    wait_for_first_epoch(tmp_path, study)
    study.send_signal(number)
    output, _ = study.communicate(timeout=200)
    assert study.returncode == 130 and "--resume goes on with it" in output and "Traceback" not in output
    by_kind, _ = runs(tmp_path)
    assert {run.info.status for run in by_kind.values()} == {"KILLED"} and "--resume" in by_kind["trial"].data.tags["reason"]
    finish(start(tmp_path, "--resume"))
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
def test_a_study_that_lacks_only_its_report_gets_it_and_trains_nothing_again(calm):
    by_kind, _ = runs(calm)
    MlflowClient(f"sqlite:///{calm}/Results/mlflow.db").set_terminated(by_kind["study"].info.run_id, "KILLED")
    report = calm / "Results" / "ablate_depth_Run01" / "report.html"
    report.unlink()
    assert "1 of 1 trials are done" in finish(start(calm, "--resume"))
    assert report.exists()
    assert_as_if_nothing_had_happened(calm, calm)


@pytest.mark.slow
def test_resume_with_nothing_to_resume_starts_and_says_so_and_refuses_another_study(calm):
    output = finish(start(calm, "--resume"))
    assert "no unfinished ablate_depth found: starting one" in output
    assert (calm / "Results" / "ablate_depth_Run02" / "report.html").exists()
