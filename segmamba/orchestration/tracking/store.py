"""The MLflow store: where it is, opening it, and calls that are made again while it is away."""

import contextlib
import functools
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import mlflow
import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from segmamba.disks import disk_line, disk_reason, gone_line
from segmamba.errors import UserError
from segmamba.files import check_writable
from segmamba.json_files import read_json
from segmamba.leftovers import folder_beside
from segmamba.orchestration.tracking.database import (
    SQLITE,
    database_in,
    make_whole,
    sqlite_path,
)
from segmamba.orchestration.tracking.experiment_page import runs_address, set_up_experiment
from segmamba.orchestration.tracking.outbox import is_away, reason_of
from segmamba.orchestration.tracking.relocation import ARTIFACTS, ROOT_TAG, follow
from segmamba.redaction import redacted

EXPERIMENT = "segmamba"
STORE_PATIENCE_S = 600.0
"""How long a study waits for a store that is away, unless SEGMAMBA_PATIENCE_S says otherwise."""
PAUSE_S = 5.0
BATCH_METRICS, BATCH_PARAMS = 1000, 100
"""MLflow's largest log_batch."""
TAG_LENGTH = 5000
"""Characters of a tag that every store of MLflow's takes."""
FAST_FAILURE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow tries a call to an absent server for minutes before it says so; these make it seconds."""

T = TypeVar("T")


class StudyHalted(UserError):
    """The study cannot go on, or cannot say how it ended, for a reason outside it.

    What it has is kept for `--resume`.
    """


@dataclass(frozen=True)
class Store:
    """An MLflow store and the experiment in it that holds all our runs.

    It is plain values, so that it travels to the processes that train.
    """

    uri: str
    experiment_id: str

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, one for each process."""
        return _client(self.uri)

    @property
    def page(self) -> str:
        """The address of MLflow's page of all our runs, with our columns."""
        return runs_address(self.uri, self.experiment_id)

    def retry(self, call: Callable[[], T], say: Callable[[str], object]) -> T:
        """Return what `call()` returns, tried again while the store does not answer.

        Args:
            call: Makes its requests to this store; it may be made twice.
            say: Is given one line when the store first does not answer.

        Raises:
            StudyHalted: The store stays away for STORE_PATIENCE_S or was removed, or the disk takes
                no more.
        """
        fail_fast()
        seconds, said = patience_s(), False
        deadline = time.monotonic() + seconds
        while True:
            try:
                return call()
            except Exception as error:
                place = sqlite_path(self.uri)
                if place and not place.exists():
                    raise StudyHalted(gone_line(place)) from error
                if disk_reason(error):
                    raise disk_full(error, place or "") from error
                if not is_away(error):
                    raise
                if time.monotonic() >= deadline:
                    raise store_away(self.uri, seconds, reason_of(error)) from error
                if not said:
                    say(
                        f"mlflow   {redacted(self.uri)} does not answer ({reason_of(error)}); "
                        f"trying again for up to {seconds / 60:.0f} min"
                    )
                    said = True
                time.sleep(min(PAUSE_S, max(0.1, deadline - time.monotonic())))

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Return the id of a new RUNNING run of the experiment."""
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
        return run.info.run_id

    def end_run(self, run_id: str, status: str) -> None:
        """Give a run its final status: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def reopen_run(self, run_id: str) -> None:
        """Set a run RUNNING again."""
        self.client.update_run(run_id, status="RUNNING")

    def search(self, condition: str, *, order_by: str = "", limit: int = 0) -> list[Run]:
        """Return the runs of the experiment that fulfil MLflow's `condition`.

        Args:
            condition: In MLflow's search language.
            order_by: As "attributes.start_time DESC".
            limit: At most so many runs; 0 is all, however many pages they fill.
        """
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                condition,
                order_by=[order_by] if order_by else None,
                max_results=limit or 1000,
                page_token=token,
            )
            runs, token = [*runs, *page], page.token
            if limit or not token:
                return runs

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Log values as text, in as many requests as MLflow's limit asks for."""
        entities = [Param(name, str(value)) for name, value in params.items()]
        for at in range(0, len(entities), BATCH_PARAMS):
            self.client.log_batch(run_id, params=entities[at : at + BATCH_PARAMS])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values at one step and one time."""
        self.log_metric_entities(run_id, metric_entities(metrics, step))

    def log_metric_entities(self, run_id: str, entities: list[Metric]) -> None:
        """Log metrics that have steps and times of their own."""
        for at in range(0, len(entities), BATCH_METRICS):
            self.client.log_batch(run_id, metrics=entities[at : at + BATCH_METRICS])

    def set_tags(self, run_id: str, tags: Mapping[str, object]) -> None:
        """Set tags in one request."""
        entities = [RunTag(name, str(value)) for name, value in tags.items()]
        self.client.log_batch(run_id, tags=entities)

    def has_artifact(self, run_id: str, name: str) -> bool:
        """Return whether a run has an artifact of this name at its top level."""
        return any(file.path == name for file in self.client.list_artifacts(run_id))

    def artifact_json(self, run_id: str, name: str, expected: type[T]) -> T:
        """Return a JSON artifact of a run.

        Args:
            run_id: The run.
            name: The artifact.
            expected: What it must hold, as `read_json` takes it.

        Raises:
            UserError: It is damaged.
        """
        with self.artifact(run_id, name) as path:
            return read_json(path, expected, fix=f"restore it in the artifacts of run {run_id}")

    @contextlib.contextmanager
    def artifact(self, run_id: str, name: str) -> Iterator[Path]:
        """Give an artifact of a run while a block runs: the file itself, or a copy of a server's.

        Args:
            run_id: The run.
            name: The artifact.
        """
        if self.uri.startswith(SQLITE):
            yield Path(self.client.download_artifacts(run_id, name))
            return
        # Without a place for it MLflow would leave the copy in a temporary folder for good.
        with folder_beside(Path(tempfile.gettempdir()) / "segmamba-artifact") as folder:
            yield Path(self.client.download_artifacts(run_id, name, str(folder)))

    def json_of(self, run: Run, name: str, expected: type[T]) -> T | None:
        """Return a JSON artifact at the top level of a run that has been read, or None.

        Unlike `artifact_json` it does not ask the store where the run's artifacts are.

        Raises:
            UserError: It is damaged.
        """
        place = run.info.artifact_uri
        fix, address = f"restore it in the artifacts of run {run.info.run_id}", f"{place}/{name}"
        if self.uri.startswith(SQLITE) and place.startswith("file:"):
            file = Path(local_file_uri_to_path(place)) / name  # MLflow takes 2 ms to say the same
            return read_json(file, expected, fix=fix) if file.is_file() else None
        there = mlflow.artifacts.list_artifacts(artifact_uri=place, tracking_uri=self.uri)
        if not any(PurePosixPath(file.path).name == name for file in there):
            return None
        with folder_beside(Path(tempfile.gettempdir()) / "segmamba-artifact") as folder:
            copy = mlflow.artifacts.download_artifacts(
                artifact_uri=address, tracking_uri=self.uri, dst_path=str(folder)
            )
            return read_json(copy, expected, fix=fix)


@functools.cache
def _client(uri: str) -> MlflowClient:
    quiet()
    return MlflowClient(uri)


def metric_entities(metrics: Mapping[str, float], step: int) -> list[Metric]:
    """Return MLflow's metrics with the present time.

    Sent twice they are stored once: MLflow keeps one of two identical entries.
    """
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in metrics.items()]


def prose(text: object) -> str:
    """Return a text for people as a tag takes it, without passwords and cut at TAG_LENGTH.

    JSON must not be cut.
    """
    return redacted(str(text))[:TAG_LENGTH]


def store_uri(results: str | Path) -> str:
    """Return the URI of the store for results in a folder.

    It is MLFLOW_TRACKING_URI where that is set, else a SQLite file in `results`. It is absolute,
    since Ray's workers run in another folder.
    """
    uri = database_in(results)
    path, (_, question, options) = sqlite_path(uri), uri.partition("?")
    return f"{SQLITE}{path.resolve()}{question}{options}" if path else uri


def store_to_read(results: str | Path) -> str:
    """Return the URI of a store that nothing is written to, which may be somebody else's.

    Raises:
        UserError: There is none, or it cannot be used.
    """
    uri = store_uri(results)
    path = sqlite_path(uri)
    if path and not path.exists():
        raise UserError(f"there is no MLflow store {path}; no study or run has ended there")
    own = path and path.parent == Path(results).resolve()
    if own and path and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK):
        open_store(results)  # where its folder was moved, it names what lies there now
    return uri


def open_store(results: str | Path) -> Store:
    """Open the store for results in a folder; its database and experiment are made where missing.

    Where the folder was moved or copied, the store names the files that are in it now.

    Raises:
        UserError: The store cannot be used: it is away, damaged, or no store.
    """
    quiet()
    uri = store_uri(results)
    check_writable(results)
    results = Path(results).resolve()
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    path = sqlite_path(uri)
    location = (results / ARTIFACTS).as_uri() if uri.startswith("sqlite:") else None
    # Behind a lock: SQLite migrations of two processes at once destroy each other.
    try:
        with FileLock((path.parent if path else results) / ".mlflow.lock"), _few_retries():
            if path:
                make_whole(path)
                follow(path, results)
            client = _client(uri)
            experiment = client.get_experiment_by_name(name)
            experiment_id = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(name, artifact_location=location)
            )
            known = experiment.tags if experiment else {}
            set_up_experiment(client, experiment_id, known)
            if path and known.get(ROOT_TAG) != str(path.parent):
                client.set_experiment_tag(experiment_id, ROOT_TAG, str(path.parent))
            return Store(uri, experiment_id)
    except ImportError as error:
        raise UserError(
            f"MLflow store {uri} needs a driver of databases that is not installed ({error})"
        ) from error
    except (MlflowException, requests.RequestException, OSError, sqlite3.Error) as error:
        if disk_reason(error):
            raise disk_full(error, path or "") from error
        named = "MLFLOW_TRACKING_URI" in os.environ
        mend = "correct or unset MLFLOW_TRACKING_URI" if named else "choose another --output"
        raise UserError(
            f"MLflow store {uri} cannot be used ({reason_of(error)}); {mend}"
        ) from error


@contextlib.contextmanager
def as_default(uri: str) -> Iterator[None]:
    """MLflow's default store while the block runs.

    MLflow also exports it to the environment, where the next study would find it; that is undone.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # it takes None, to unset it


def quiet() -> None:
    """Keep what MLflow and its migrations say about themselves out of the terminal."""
    os.environ |= {
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It prints the traceback of what it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def fail_fast() -> None:
    """Have MLflow's calls to an absent server fail within seconds, for who tries them again."""
    for name, value in FAST_FAILURE.items():
        os.environ.setdefault(name, value)


def patience_s() -> float:
    """Return how many seconds an absent store is waited for."""
    asked = os.environ.get("SEGMAMBA_PATIENCE_S", str(STORE_PATIENCE_S))
    try:
        return float(asked)
    except ValueError as error:
        raise UserError(f"SEGMAMBA_PATIENCE_S={asked}: give seconds, such as 600") from error


def store_away(uri: str, seconds: float, reason: str) -> StudyHalted:
    """Return the exception for a store that did not come back."""
    return StudyHalted(
        f"MLflow store {uri} has not answered for {seconds:.0f} s ({reason}); what was trained is "
        "safe in the study's folder: when the store is back, the same command with --resume goes on"
    )


def disk_full(error: BaseException, place: Path | str = "") -> StudyHalted:
    """Return the exception for a disk that takes no more.

    Args:
        error: One for which `disk_reason` gives a reason.
        place: What was written, where the exception does not know.
    """
    return StudyHalted(
        disk_line(error, "the same command with --resume goes on where it stopped", place)
    )


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Fast failures while the block runs, before anything has begun."""
    before = {name: os.environ.get(name) for name in FAST_FAILURE}
    os.environ.update({name: value for name, value in FAST_FAILURE.items() if before[name] is None})
    try:
        yield
    finally:
        for name in FAST_FAILURE:
            if before[name] is None:
                del os.environ[name]
