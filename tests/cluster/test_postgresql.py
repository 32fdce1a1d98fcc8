"""A study in front of an MLflow server that has passwords and PostgreSQL behind it."""

import os
import secrets
import tempfile
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.cluster import postgresql
from tests.cluster.postgresql import database_and_server
from tests.cluster.stored import final_metrics, histories, runs_of, statuses
from tests.orchestration.faults import STUDY, finish, start, trial_processes, wait_for

SEEDS = ("--seeds", "8", "--cpus", "8")
"""Eight trials, all at once: on fewer cores they share them."""


@pytest.fixture
def services():
    """A database and a server in a folder that PostgreSQL's user can reach."""
    if reason := postgresql.why_not():
        pytest.skip(reason)
    with database_and_server(Path(tempfile.mkdtemp(prefix="postgresql-"))) as both:
        yield both


def files_with(secret, folder):
    """The files below a folder that hold these characters."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def titles(study):
    """The command lines of a study's processes, which every user of the machine can read."""
    processes = psutil.Process(study.pid).children(recursive=True)
    return [" ".join(process.cmdline()) for process in processes if process.is_running()]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_eight_trials_lose_nothing_to_a_killed_server_and_a_restarted_database(
    services, tmp_path, monkeypatch
):
    database, server = services
    password = secrets.token_hex(12)
    server.add_user("trainer", password)
    address = server.uri.replace("://", f"://trainer:{password}@")
    cwd, calm = tmp_path / "disturbed", tmp_path / "calm"
    cwd.mkdir()
    calm.mkdir()

    study = start(cwd, *SEEDS, env={**os.environ, "MLFLOW_TRACKING_URI": address})
    trials = wait_for(
        lambda: (found := trial_processes(study))[7:] and found, study, "eight trials at once"
    )
    wait_for(
        lambda: list(cwd.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth")), study, "an epoch"
    )
    for trial in trials[:4]:
        trial.suspend()  # the study is not to end before the database is back
    assert not any(password in title for title in titles(study))
    server.kill()
    wait_for(lambda: len(final_metrics(cwd / "Results" / STUDY)) >= 2, study, "verdicts")
    server.start()
    for trial in trials[:2]:
        trial.resume()
    database.control("restart", "--mode=immediate")
    for trial in trials[2:4]:
        trial.resume()
    output = finish(study)

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "trainer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    client = MlflowClient(server.uri)
    assert statuses(client) == {"FINISHED"} and not any(
        "reason" in run.data.tags for run in runs_of(client)
    )
    finish(start(calm, *SEEDS))
    undisturbed = MlflowClient(f"sqlite:///{calm}/Results/mlflow.db")
    assert histories(client) == histories(undisturbed) and len(histories(client)) == 8
    assert final_metrics(cwd / "Results" / STUDY) == final_metrics(calm / "Results" / STUDY)

    assert password not in output
    assert not files_with(password, cwd) and not files_with(password, server.folder)
    assert password not in database.dump("mlflow")
