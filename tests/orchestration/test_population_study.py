"""A population trained by the real command, undisturbed and with its driver killed midway."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import warm
from tests.orchestration.faults import ROOT, SETTINGS, finish, wait_for

pytestmark = pytest.mark.slow
STUDY = "Results/tune_hyperparameters_Run01"
SERIES = ("train/loss", "train/tumour_centre_share", "val/dice_mean", "val/best_dice_mean")


def start(cwd, *options, env=None):
    cwd.mkdir(exist_ok=True)
    settings = [
        part
        for name, value in (SETTINGS | {"train.steps_per_epoch": "2"}).items()
        for part in ("--set", f"{name}={value}")
    ]
    command = [
        sys.executable,
        ROOT / "experiments" / "tune_hyperparameters.py",
        "--scheduler",
        "pbt",
        "--trials",
        "4",
        "--seeds",
        "1",
        *settings,
    ]
    return warm.Process([*command, *options], cwd=cwd, env=env, stderr=subprocess.STDOUT)


def runs(cwd):
    """(parent, {name: (run, {metric: [(step, value)]})})."""
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    all_runs = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    (parent,) = [run for run in all_runs if run.data.tags["kind"] == "study"]
    children = [run for run in all_runs if run.data.tags["kind"] == "trial"]
    return parent, {
        run.info.run_name: (
            run,
            {
                name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
                for name in SERIES
            },
        )
        for run in children
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """(folder, what it printed) of an undisturbed study."""
    cwd = tmp_path_factory.mktemp("calm")
    return cwd, finish(start(cwd))


def test_members_finish_with_a_step_for_every_epoch_and_their_copies_are_told(calm):
    cwd, output = calm
    assert "no run is reused" in output and "copy     trial" in output
    parent, trials = runs(cwd)
    assert parent.info.status == "FINISHED" and {run.info.status for run, _ in trials.values()} == {
        "FINISHED"
    }
    assert sorted(trials) == [
        "baseline, seed 1",
        "found, seed 1",
        *(f"trial 0{i}, seed 0" for i in range(4)),
    ]
    for _, series in trials.values():
        assert all([step for step, _ in points] == [1, 2, 3] for points in series.values())
    decided = json.loads((cwd / STUDY / "population.json").read_text())["members"]
    copies = {arm: [stage for stage in stages if stage["donor"]] for arm, stages in decided.items()}
    assert sum(map(len, copies.values())) == 2, "two rounds, a quarter of four"
    for arm, stages in copies.items():
        run, series = trials[f"{arm}, seed 0"]
        assert run.data.tags.get("copied", "") == "; ".join(
            f"{stage['donor']} after epoch {stage['epoch']}" for stage in stages
        )
        assert json.loads(run.data.tags["changes"]) == decided[arm][-1]["changes"]
        for stage in stages:
            at, donor = stage["epoch"], trials[f"{stage['donor']}, seed 0"][1]
            assert series["val/dice_mean"][at - 1][1] < donor["val/dice_mean"][at - 1][1], (
                "the better one is copied"
            )
            assert series["val/best_dice_mean"][at][1] >= donor["val/best_dice_mean"][at - 1][1], (
                "and with it its best"
            )


def test_the_report_tells_the_schedule_that_found_follows(calm):
    cwd, _ = calm
    parent, trials = runs(cwd)
    page, pasted = ((cwd / STUDY / name).read_text() for name in ("report.html", "report.md"))
    for text in (page, pasted):
        assert "the schedule, from epoch" in text and "after epoch" in text
        assert "not one setting of an arm" in " ".join(text.split())
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    (cwd / "taken").mkdir(exist_ok=True)
    schedule = json.loads(
        Path(
            client.download_artifacts(parent.info.run_id, "schedule.json", str(cwd / "taken"))
        ).read_text()
    )
    assert schedule[0]["epoch"] == 0 and schedule[-1]["changes"] == json.loads(
        parent.data.tags["found"]
    )
    config = json.loads((cwd / STUDY / "trials" / "found_seed1" / "config.json").read_text())
    assert config["optim"]["lr"] == schedule[-1]["changes"]["optim.lr"]
    assert (
        float(trials["found, seed 1"][0].data.params["optim.lr"])
        == schedule[0]["changes"]["optim.lr"]
    )


def test_a_population_whose_driver_was_killed_is_resumed_to_the_same_end(calm, tmp_path):
    study = start(tmp_path)
    decided = tmp_path / STUDY / "population.json"
    wait_for(
        lambda: decided.exists() and json.loads(decided.read_text())["done"] >= 1,
        study,
        "first round",
    )
    study.send_signal(signal.SIGKILL)
    study.communicate(timeout=60)
    finish(start(tmp_path, "--resume"))
    disturbed, undisturbed = runs(tmp_path)[1], runs(calm[0])[1]
    assert {name: series for name, (_, series) in disturbed.items()} == {
        name: series for name, (_, series) in undisturbed.items()
    }
    assert {run.info.status for run, _ in disturbed.values()} == {"FINISHED"}
    assert not (tmp_path / STUDY / "population").exists(), "copies are thrown away in the end"


def test_it_is_refused_where_it_cannot_be_done_and_planned_where_it_can(tmp_path):
    said = finish(start(tmp_path, "--set", "train.epochs=1"), code=2)
    assert (
        "--scheduler pbt: 1 epochs, evaluated every 1, leave no round before the last"
        in " ".join(said.split())
    )
    assert not (tmp_path / STUDY).exists()
    arms = [sys.executable, ROOT / "experiments" / "ablate_depth.py", "--scheduler", "pbt"]
    refused = warm.run(arms, cwd=tmp_path)
    assert (
        refused.returncode == 2
        and "ablate_depth compares arms and has no search space" in " ".join(refused.stderr.split())
    )
    planned = finish(start(tmp_path, "--plan", "--json"))
    assert "6 trials" in planned or '"trials": 6' in planned


def test_no_file_of_a_population_holds_the_stores_password(tmp_path):
    secret = "s3cret-of-the-store"
    uri = f"sqlite:///{tmp_path}/st.db?password={secret}"
    study = start(tmp_path, env=os.environ | {"MLFLOW_TRACKING_URI": uri})
    copies = tmp_path / STUDY / "population"
    wait_for(lambda: list(copies.glob("*/tuner.pkl")), study, "what Tune stores")
    wait_for(lambda: list(copies.glob("*/experiment_state*")), study, "state of Tune's")
    study.kill()
    study.communicate()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]
