"""A folder of results that was moved or copied: its MLflow database is made to name its own files.

MLflow keeps absolute addresses: where an experiment puts the artifacts of new runs, where those of
each run and each model are, and we keep where each trial has its checkpoints. After `mv` they
would name a place that is gone, and MLflow would make it again; after `cp -a` the copy would name
the original's files. So the experiment says in a tag where its database lay, and whoever opens a
database elsewhere has the addresses below that folder rewritten, all or none.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from segmamba.errors import UserError
from segmamba.files import LOCK, is_abandoned, is_gone

ROOT_TAG = "segmamba.folder"
"""The tag of an experiment: the folder in which its database lay when it was opened last."""
ARTIFACTS = "mlartifacts"
"""The folder, beside the database, of all artifacts."""
BUSY_S = 60.0
"""How long another process's writing to the database is waited for."""
ADDRESSES = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("logged_models", "artifact_location", ""),
    ("tags", "value", "key = 'folder'"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
    ("experiment_tags", "value", f"key = '{ROOT_TAG}'"),
)
"""Table, column and condition of what holds an absolute path or its address."""


def follow(database: Path, results: Path) -> None:
    """Rewrite the addresses of a database whose folder was moved or copied to where it is now.

    Addresses elsewhere stay. Call it behind the store's lock.

    Args:
        database: MLflow's SQLite file, whole and of the installed version.
        results: The folder of results; the database lies in it unless MLFLOW_TRACKING_URI names
            another place.

    Raises:
        UserError: A process still works in the folder under its former name.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_S)) as opened:
        opened.isolation_level = None
        moves = list(_moves(opened, database.parent, results))
        if not moves:
            return
        for old, new in moves:
            _check_unused(old, new)
        opened.execute("BEGIN IMMEDIATE")
        for old, new in moves:
            _rewrite(opened, old, new)
        opened.execute("COMMIT")


def _moves(opened: sqlite3.Connection, home: Path, results: Path) -> Iterator[tuple[Path, Path]]:
    """Each former folder with the one that stands for it now."""
    recorded = _column(opened, "experiment_tags", "value", f"key = '{ROOT_TAG}'")
    locations = filter(None, map(_root, _column(opened, "experiments", "artifact_location")))
    known = dict.fromkeys([*map(Path, recorded), *locations])
    for new in dict.fromkeys((home, results)):
        for old in known:
            if old != new and _has_moved(opened, old, new, home, recorded):
                yield old, new


def _has_moved(
    opened: sqlite3.Connection, old: Path, new: Path, home: Path, recorded: list[str]
) -> bool:
    """Whether what lay in one folder lies in another one now."""
    uris = _column(opened, "runs", "artifact_uri")
    prefix = f"{(old / ARTIFACTS).as_uri()}/"
    runs = [uri.removeprefix(prefix).partition("/")[0] for uri in uris if uri.startswith(prefix)]
    here = [(new / ARTIFACTS / run).is_dir() for run in runs]
    gone = is_gone(old / ARTIFACTS)
    if new != home:  # the database has stayed, and serves a copy's original, too
        return gone and bool(here) and all(here)
    if recorded:
        return any(here) or (gone and str(old) in recorded)
    return any(here) or (gone and not uris)


def _check_unused(old: Path, new: Path) -> None:
    for folder in new.iterdir():
        if (folder / LOCK).exists() and not is_abandoned(folder):
            raise UserError(
                f"{new} was {old}, and {folder.name} is still running in it; wait for it, or stop "
                "it first"
            )


def _rewrite(opened: sqlite3.Connection, old: Path, new: Path) -> None:
    tables = set(_column(opened, "sqlite_master", "name", "type = 'table'"))
    for table, column, condition in ADDRESSES:
        if table not in tables:
            continue
        for before, after in ((str(old), str(new)), (old.as_uri(), new.as_uri())):
            below = "(substr({0}, 1, length({1}) + 1) = {1} || '/' OR {0} = {1})"
            moved = below.format(column, ":old")
            if Path(new).is_relative_to(old):  # what another former folder's became stays
                moved += f" AND NOT {below.format(column, ':new')}"
            opened.execute(
                f"UPDATE {table} SET {column} = :new || substr({column}, length(:old) + 1) "
                f"WHERE {moved}" + (f" AND {condition}" if condition else ""),
                {"old": before, "new": after},
            )


def _root(location: str) -> Path | None:
    """The folder of results to which an experiment's artifacts belong, if they are like ours."""
    path = Path(unquote(urlsplit(location).path)) if location.startswith("file:") else None
    return path.parent if path and path.name == ARTIFACTS else None


def _column(
    opened: sqlite3.Connection, table: str, column: str, condition: str = "TRUE"
) -> list[str]:
    """What a column holds, without repetition."""
    query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL AND {condition}"
    return [value for (value,) in opened.execute(query)]
