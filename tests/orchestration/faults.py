"""Tiny studies in real processes, for tests that disturb them."""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
from mlflow import MlflowClient

from tests import warm

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "train.epochs": "3",
    "train.steps_per_epoch": "6",
    "train.validate_every_epochs": "1",
    "optim.warmup_epochs": "0",
    "phantom.cases": "6",
    "phantom.size": "48,48,48",
    "data.spacing_mm": "4",
    "data.patch_size": "32,32,32",
    "model.base_channels": "4",
}
STUDY = "ablate_depth_Run01"


def command(*options, **changes):
    """The command of a study of one arm and one seed.

    changes: of SETTINGS, with __ for the dot.
    """
    chosen = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    settings = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    return [
        sys.executable,
        ROOT / "experiments" / "ablate_depth.py",
        "--seeds",
        "1",
        "--arms",
        "depth 2",
        "--cpus",
        "1",
        "--no-viewer",
        *settings,
        *options,
    ]


def start(cwd, *options, env=None, **changes):
    """The study of `command`, started in `cwd`."""
    # In a session of its own: a signal to its group is not one to the tests.
    return warm.Process(
        command(*options, **changes), cwd=cwd, env=env, stderr=subprocess.STDOUT, session=True
    )


def finish(study, code=0):
    """What the study printed until it ended with this code."""
    output, _ = study.communicate(timeout=900)
    assert study.returncode == code, output[-5000:]
    assert "Traceback" not in output, output[-5000:]
    return output


def trial_processes(study):
    """The workers that run a function trainable, by the title that Ray gives them."""
    found = []
    for process in psutil.Process(study.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += [process] if "ImplicitFunc" in " ".join(process.cmdline()) else []
    return found


def wait_for(condition, study, what):
    """What `condition()` gives as soon as that is true, while the study runs."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        assert study.poll() is None, study.stdout.read()[-5000:]
        time.sleep(0.05)
    raise AssertionError(f"no {what} within 400 s")


def wait_for_first_epoch(cwd, study):
    """The trial's processes, as soon as the first epoch is on disk."""
    wait_for(
        lambda: list(cwd.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth")),
        study,
        "first epoch",
    )
    victims = trial_processes(study)
    assert victims, "the trial runs in a process of its own"
    return victims


def final_metrics(cwd):
    """What a repeated run must find again: the trial's final metrics without its times."""
    final = json.loads(
        next(cwd.glob(f"Results/{STUDY}/trials/*/metrics/final_metrics.json")).read_text()
    )
    return {name: value for name, value in final.items() if not name.startswith("time/")}


def runs(cwd, uri=None):
    """({kind: run}, epochs that MLflow has of the trial), where each kind has one run."""
    client = MlflowClient(uri or f"sqlite:///{cwd}/Results/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    found = [run for run in found if run.data.tags["kind"] != "arm"]  # there once it has ended
    by_kind = {run.data.tags["kind"]: run for run in found}
    assert len(found) == len(by_kind) == 2
    return by_kind, [
        m.step for m in client.get_metric_history(by_kind["trial"].info.run_id, "val/dice_mean")
    ]


def assert_as_if_nothing_had_happened(cwd, calm, uri=None):
    """The study in `cwd` ended as the undisturbed one in `calm`.

    Its metrics are the same, its histories whole, and nothing is left running or failed.
    """
    by_kind, steps = runs(cwd, uri)
    assert {run.info.status for run in by_kind.values()} == {"FINISHED"}
    assert "reason" not in by_kind["trial"].data.tags
    assert steps == [1, 2, 3] and final_metrics(cwd) == final_metrics(calm)
