"""The SQLite file of an MLflow store, which is there whole or not at all.

MLflow makes and upgrades its tables in place, by dozens of migrations. A process that ends in
between leaves a file that every later start refuses. Here a database is made, or upgraded, under
another name beside its place and renamed once it is whole.
"""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from segmamba.errors import UserError
from segmamba.files import check_writable

SQLITE = "sqlite:///"
JOURNALS = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file that is being written."""
BEFORE = ".before"
"""Follows the name of what is being made: a copy of what was there before."""
UPGRADE_LIMIT_S = 600.0


def sqlite_path(uri: str) -> Path | None:
    """Return the file that a store's URI names, options apart; None where it names no SQLite file.

    Raises:
        UserError: SQLAlchemy, which decodes %20 and the like, would take another file.
    """
    path = uri.removeprefix(SQLITE).partition("?")[0]
    if not uri.startswith(SQLITE) or path.startswith((":memory:", "file:")) or not path:
        return None
    if unquote(path) != path:
        raise UserError(
            f"MLFLOW_TRACKING_URI={uri}: the file's name has an escape such as %20, which MLflow's "
            "database does not keep; choose another name"
        )
    return Path(path)


def check_results(folder: Path | str) -> None:
    """Make the folder of the results, and check before anything begins that they can lie there.

    Args:
        folder: Where the database is or will be, unless MLFLOW_TRACKING_URI names another store.

    Raises:
        UserError: It cannot be written, or no address of a SQLite file can name it.
    """
    path = str(Path(folder).resolve())
    # SQLAlchemy decodes %20 and takes what follows a question mark for options.
    if not os.environ.get("MLFLOW_TRACKING_URI") and ("?" in path or unquote(path) != path):
        raise UserError(
            f"--output {folder}: MLflow's database cannot lie in {path}, whose name has a question "
            "mark or an escape such as %20; choose another folder"
        )
    check_writable(folder)


def make_whole(path: Path) -> None:
    """Make the database where it is missing, replace or mend one that was left half-made.

    Call it behind a lock: two processes that migrate one database destroy it.

    Args:
        path: Where the database is or will be.

    Raises:
        UserError: The file is no MLflow database, or one with results that cannot be mended.
    """
    if not path.exists() or path.stat().st_size == 0:
        _create(path)
        return
    tables = _tables(path)
    if tables and not tables & {"alembic_version", "experiments", "runs"}:
        raise UserError(
            f"{path}: a database of another program; correct or unset MLFLOW_TRACKING_URI, or give "
            "another --output"
        )
    temporary = any(name.startswith("_alembic_tmp_") for name in tables)
    complete = {"experiments", "runs"} <= tables and not temporary
    if complete and _version(path) == _newest_version():
        return
    used = ("runs", "model_versions", "registered_models")
    if not complete and not any(_rows(path, table) for table in used):
        _set_aside(path)
        _create(path)
        return
    upgrade(path)


def upgrade(path: Path) -> Path:
    """Bring a database with results to the schema of the installed MLflow.

    Args:
        path: The database. It stays as it is until its upgraded copy is whole.

    Returns:
        Where the database as it was before is kept.

    Raises:
        UserError: MLflow cannot upgrade it; nothing has changed.
    """
    with _no_writer(path), _beside(path) as copy:
        _copy(path, copy)
        with contextlib.closing(sqlite3.connect(copy)) as database, database:
            for name in _tables(copy):
                if name.startswith("_alembic_tmp_"):  # of a migration that was interrupted
                    database.execute(f'DROP TABLE "{name}"')
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"{SQLITE}{copy}"]
        if reason := _obstacle(command):
            raise UserError(
                f"{path}: MLflow's database is of another version and cannot be upgraded "
                f"({reason}); it has not been changed: move it away or use its own MLflow"
            )
        kept = path.with_name(f"{path.name}.before-upgrade-{time.strftime('%Y%m%d-%H%M%S')}")
        before = Path(f"{copy}{BEFORE}")
        _copy(path, before)
        _rename(before, kept)
        _rename(copy, path)
    return kept


def _obstacle(upgrading: list[str]) -> str:
    """Run MLflow's upgrade; the reason why it did not end well, "" where it did."""
    try:
        ended = subprocess.run(
            upgrading, capture_output=True, text=True, timeout=UPGRADE_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {UPGRADE_LIMIT_S:.0f} s"
    if not ended.returncode:
        return ""
    return (ended.stderr.strip().splitlines() or ["no reason given"])[-1][:200]


def _create(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with _beside(path) as new:
        store = SqlAlchemyStore(f"{SQLITE}{new}", str(path.parent / "mlartifacts"))
        store.engine.dispose()
        _rename(new, path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name in the same folder, for what will take the place of `path`; nothing of it stays.

    What processes that were killed have left under such names goes away too: the lock is ours.
    """
    for left in path.parent.glob(f".{path.name}.*.new*"):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield temporary
    finally:
        for ending in ("", BEFORE, *JOURNALS):
            Path(f"{temporary}{ending}").unlink(missing_ok=True)


def _rename(new: Path, path: Path) -> None:
    """Let a whole database take the place of `path`, then remove the old one's journals."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)
    for ending in JOURNALS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    _rename(path, path.with_name(f"{path.name}.incomplete"))
    for ending in JOURNALS:
        Path(f"{path}{ending}").unlink(missing_ok=True)


@contextlib.contextmanager
def _no_writer(path: Path) -> Iterator[None]:
    """Keep every other process from writing to a database while the block runs."""
    with contextlib.closing(sqlite3.connect(path)) as held:
        try:
            held.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise UserError(
                f"{path}: cannot be upgraded now ({error}); end what uses it, then try again"
            ) from error
        yield
        held.rollback()


def _copy(source: Path, target: Path) -> None:
    """Copy a database through SQLite itself, with what its journal still holds."""
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def _tables(path: Path) -> set[str]:
    try:
        return {
            name for (name,) in _query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{path}: cannot be read now ({error}); end what uses it, then try again"
        ) from error
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: no SQLite database ({error}); move it away, or give another --output"
        ) from error


def _rows(path: Path, table: str) -> int:
    """The number of rows, 0 where there is no such table."""
    return _query(path, f"SELECT count(*) FROM {table}")[0][0] if table in _tables(path) else 0


def _version(path: Path) -> str:
    if "alembic_version" not in _tables(path):
        return ""
    return ",".join(row[0] for row in _query(path, "SELECT version_num FROM alembic_version"))


def _newest_version() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision  # no public name says it

    return _get_latest_schema_revision()


def _query(path: Path, statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(statement).fetchall()
