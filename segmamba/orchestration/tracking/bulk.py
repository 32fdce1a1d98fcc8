"""Thousands of runs, read at once where MLflow's database is a file here.

MLflow makes an object for every row and asks again for every metric of every run, which takes
minutes for a study of thousands of trials. Here a few queries read the same. From a server, and
from any other database, runs are read as MLflow reads them.
"""

import contextlib
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE, TEMPORARILY_UNAVAILABLE

from segmamba.orchestration.tracking.database import sqlite_path
from segmamba.orchestration.tracking.store import Store

Histories = dict[str, list[tuple[int, float]]]
"""Metric to its (step, value), by step."""
PARENT_TAG = "mlflow.parentRunId"
PREFIXES = ("train/", "val/")
"""Of the metrics that have a course."""
RUNS_AT_ONCE = 500
"""Of a query: SQLite takes no more than 999 values in one."""
PATIENCE_S = 60.0
"""How long another process may write to the database before reading it fails."""


def runs_below(store: Store, parent_id: str) -> list[Run]:
    """Read the runs whose parent is a run, newest first, without their inputs.

    Args:
        store: Where they are.
        parent_id: Of the parent run.

    Returns:
        The runs that are not deleted.
    """
    path = sqlite_path(store.uri)
    if path is None:
        return store.search(f"tags.`{PARENT_TAG}` = '{parent_id}'")
    with _opened(path) as database:
        rows = database.execute(
            "SELECT run_uuid, runs.experiment_id, user_id, status, start_time, end_time, "
            "lifecycle_stage, artifact_uri, name FROM runs JOIN tags USING (run_uuid) "
            "WHERE key = ? AND value = ? AND experiment_id = ? AND lifecycle_stage = 'active' "
            "ORDER BY start_time DESC, run_uuid",
            (PARENT_TAG, parent_id, int(store.experiment_id)),
        ).fetchall()
        run_ids = [row[0] for row in rows]
        params, tags, metrics = (
            _by_run(database, query, run_ids)
            for query in (
                "SELECT run_uuid, key, value FROM params",
                "SELECT run_uuid, key, value FROM tags",
                "SELECT run_uuid, key, value, is_nan, timestamp, step FROM latest_metrics",
            )
        )
    return [
        Run(
            RunInfo(row[0], str(row[1]), *row[2:]),
            RunData(
                [
                    Metric(key, _number(value, is_nan), time, step)
                    for key, value, is_nan, time, step in metrics[row[0]]
                ],
                [Param(*pair) for pair in params[row[0]]],
                [RunTag(*pair) for pair in tags[row[0]]],
            ),
        )
        for row in rows
    ]


def histories_of(store: Store, runs: Sequence[Run]) -> dict[str, Histories]:
    """Read the course of the metrics of training and validation.

    Args:
        store: Where the runs are.
        runs: The runs.

    Returns:
        Run id to the histories of the run's metrics.
    """
    path = sqlite_path(store.uri)
    if path is None:
        return {run.info.run_id: _history(store, run) for run in runs}
    begins = " OR ".join(f"key GLOB '{prefix}*'" for prefix in PREFIXES)
    with _opened(path) as database:
        rows = _by_run(
            database,
            f"SELECT run_uuid, key, step, value, is_nan FROM metrics WHERE ({begins})",
            [run.info.run_id for run in runs],
            order="step, timestamp, value",
        )
    found: dict[str, Histories] = {}
    for run in runs:
        courses: Histories = {}
        for key, step, value, is_nan in rows[run.info.run_id]:
            courses.setdefault(key, []).append((step, _number(value, is_nan)))
        found[run.info.run_id] = courses
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database; what goes wrong is raised as if MLflow had met it."""
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"  # where it is missing, none is made
        with contextlib.closing(sqlite3.connect(address, timeout=PATIENCE_S, uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        busy = getattr(error, "sqlite_errorname", "") in ("", "SQLITE_BUSY", "SQLITE_LOCKED")
        code = TEMPORARILY_UNAVAILABLE if busy else INVALID_STATE
        raise MlflowException(f"{path}: {error}", error_code=code) from error


def _history(store: Store, run: Run) -> Histories:
    found = {}
    for name in run.data.metrics:
        if name.startswith(PREFIXES):
            history = store.client.get_metric_history(run.info.run_id, name)
            found[name] = [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)]
    return found


def _by_run(
    database: sqlite3.Connection, query: str, run_ids: Sequence[str], *, order: str = "key"
) -> dict[str, list[tuple]]:
    """The rows of some runs, by the run that stands first in them; the others follow."""
    found: dict[str, list[tuple]] = defaultdict(list)
    word = "AND" if " WHERE " in query else "WHERE"
    for some in _parts(run_ids):
        marks = ", ".join("?" * len(some))
        for run_id, *rest in database.execute(
            f"{query} {word} run_uuid IN ({marks}) ORDER BY {order}", some
        ):
            found[run_id].append(tuple(rest))
    return found


def _parts(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(run_ids), RUNS_AT_ONCE):
        yield run_ids[first : first + RUNS_AT_ONCE]


def _number(value: float, is_nan: int) -> float:
    """A value as MLflow returns it: of an infinite one, the largest number."""
    return math.nan if is_nan else value
