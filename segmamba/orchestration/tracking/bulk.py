"""Thousands of runs, read at once where MLflow's database is a file here.

MLflow makes an object for every row and asks again for every metric of every run, which takes
minutes for a study of thousands of trials. Here a few queries read the same. From a server, and
from any other database, runs are read as MLflow reads them.
"""

import contextlib
import functools
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
ACTIVE = "experiment_id = ? AND lifecycle_stage = 'active'"
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
    return runs_with(store, {PARENT_TAG: parent_id})


def runs_with(store: Store, tags: Mapping[str, str]) -> list[Run]:
    """Read the runs that have some tags, newest first, without their inputs.

    Args:
        store: Where they are.
        tags: What they have, the one that fewest runs have first, since each run with that one is
            looked at. No value has both kinds of quotation marks.

    Returns:
        The runs that are not deleted.
    """
    path = sqlite_path(store.uri)
    if path is None:
        quotes = {name: '"' if "'" in value else "'" for name, value in tags.items()}
        conditions = (f"tags.`{n}` = {quotes[n]}{value}{quotes[n]}" for n, value in tags.items())
        return store.search(" and ".join(conditions))
    (first, *others) = tags.items()
    having = (
        "AND EXISTS (SELECT 1 FROM tags AS other WHERE other.run_uuid = runs.run_uuid "
        "AND other.key = ? AND other.value = ?) "
    ) * len(others)
    values = [part for pair in others for part in pair]
    with _opened(path) as database:
        found = database.execute(
            "SELECT runs.run_uuid FROM tags CROSS JOIN runs USING (run_uuid) "
            f"WHERE tags.key = ? AND tags.value = ? AND {ACTIVE} {having} "
            "ORDER BY start_time DESC, runs.run_uuid",
            (*first, int(store.experiment_id), *values),
        )
        return _runs(database, [run_id for (run_id,) in found])


def oldest_finished(
    store: Store, tag: str, values: Collection[str], *, without: Collection[str]
) -> dict[str, Run]:
    """Read, for each value of a tag, the oldest FINISHED run that has it.

    Args:
        store: Where they are.
        tag: The tag.
        values: The values.
        without: Tags that the runs do not have.

    Returns:
        Value to its run; values without a run are missing.
    """
    path = sqlite_path(store.uri)
    if path is None:
        return {
            value: run
            for value in values
            if (run := _oldest_finished(store, f"tags.`{tag}` = '{value}'", without))
        }
    marks, wanted = ", ".join("?" * len(without)), frozenset(values)
    with _opened(path) as database:
        rows = database.execute(
            f"SELECT value, run_uuid FROM runs JOIN tags USING (run_uuid) WHERE {ACTIVE} AND "
            "status = 'FINISHED' AND key = ? AND NOT EXISTS (SELECT 1 FROM tags AS other WHERE "
            f"other.run_uuid = runs.run_uuid AND other.key IN ({marks})) "
            "ORDER BY start_time DESC, run_uuid DESC",
            (int(store.experiment_id), tag, *without),
        )
        oldest = {value: run_id for value, run_id in rows if value in wanted}
        runs = {run.info.run_id: run for run in _runs(database, list(oldest.values()))}
    return {value: runs[run_id] for value, run_id in oldest.items()}


def _oldest_finished(store: Store, condition: str, without: Collection[str]) -> Run | None:
    runs = store.search(
        f"{condition} and attributes.status = 'FINISHED'",
        order_by="attributes.start_time ASC",
        limit=100,
    )
    return next((run for run in runs if not run.data.tags.keys() & set(without)), None)


def _runs(database: sqlite3.Connection, run_ids: Sequence[str]) -> list[Run]:
    """Runs with their parameters, tags and last metrics, in the order of their ids."""
    param, tag = functools.cache(Param), functools.cache(RunTag)  # most are the same in all runs
    # A part at a time: the rows of thousands of runs would take more memory than the runs.
    return [run for some in _parts(run_ids) for run in _some_runs(database, some, param, tag)]


def _some_runs(
    database: sqlite3.Connection,
    run_ids: Sequence[str],
    param: Callable[[str, str], Param],
    tag: Callable[[str, str], RunTag],
) -> Iterator[Run]:
    columns = "user_id, status, start_time, end_time, lifecycle_stage, artifact_uri, name"
    infos, params, tags, metrics = (
        _by_run(database, query, run_ids, order=order)
        for query, order in (
            (f"SELECT run_uuid, experiment_id, {columns} FROM runs", "run_uuid"),
            ("SELECT run_uuid, key, value FROM params", "key"),
            ("SELECT run_uuid, key, value FROM tags", "key"),
            ("SELECT run_uuid, key, value, is_nan, timestamp, step FROM latest_metrics", "key"),
        )
    )
    for run_id in run_ids:
        for experiment_id, *info in infos[run_id]:
            yield Run(
                RunInfo(run_id, str(experiment_id), *info),
                RunData(
                    [
                        Metric(key, _number(value, is_nan), time, step)
                        for key, value, is_nan, time, step in metrics[run_id]
                    ],
                    [param(*pair) for pair in params[run_id]],
                    [tag(*pair) for pair in tags[run_id]],
                ),
            )


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
