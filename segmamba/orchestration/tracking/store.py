"""The MLflow store itself: where it is, making it, and the few calls that every run needs."""

import contextlib
import logging
import os
from pathlib import Path

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from segmamba.errors import UserError

EXPERIMENT = "segmamba"


def quiet():
    """Keep what MLflow and its migrations say about themselves out of the terminal; warnings stay."""
    os.environ |= {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # it prints the traceback of what it raises


def store_uri(results):
    """MLFLOW_TRACKING_URI where it is set, else a SQLite file in `results`; absolute, since Ray's workers run elsewhere."""
    uri = (
        os.environ.get("MLFLOW_TRACKING_URI")
        or f"sqlite:///{Path(results).resolve() / 'mlflow.db'}"
    )
    path = uri.removeprefix("sqlite:///")
    return f"sqlite:///{Path(path).resolve()}" if path != uri else uri


@contextlib.contextmanager
def as_default(uri):
    """MLflow's default store while the block runs. MLflow also exports it to the environment, where the next study would find it: undone."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # which takes None


def open_store(uri, results):
    """Create database and experiment where they are missing; returns the experiment's id.

    Behind a lock: SQLite migrations of two processes at once destroy each other.
    """
    quiet()
    results = Path(results).resolve()
    results.mkdir(parents=True, exist_ok=True)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    location = (results / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
    try:
        with FileLock(results / ".mlflow.lock"), _few_retries():
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(name)
            return (
                found.experiment_id
                if found
                else client.create_experiment(name, artifact_location=location)
            )
    except (MlflowException, requests.RequestException) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"MLflow store {uri} cannot be used ({reason}); correct or unset MLFLOW_TRACKING_URI"
        ) from error


@contextlib.contextmanager
def _few_retries():
    """MLflow tries an address that does not answer for minutes: before anything has begun a few seconds must do."""
    names = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: value for name, value in names.items() if before[name] is None})
    try:
        yield
    finally:
        for name in names:
            if before[name] is None:
                del os.environ[name]


def reopen_run(uri, run_id):
    """Set a run RUNNING again."""
    MlflowClient(uri).update_run(run_id, status="RUNNING")


def end_run(uri, run_id, status):
    """FINISHED, FAILED or KILLED."""
    MlflowClient(uri).set_terminated(run_id, status)


def artifact_text(client, run_id, name):
    return Path(client.download_artifacts(run_id, name)).read_text()
