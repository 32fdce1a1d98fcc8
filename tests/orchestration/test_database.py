"""MLflow's database is there whole or not at all, however its making or its upgrade ends."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from segmamba.errors import UserError
from segmamba.orchestration.tracking import database
from segmamba.orchestration.tracking.database import check_results, make_whole, upgrade
from segmamba.orchestration.tracking.store import open_store
from tests import warm

OPEN = """
import sys
from segmamba.orchestration.tracking.store import open_store
print("opening", flush=True)
open_store(sys.argv[1])
"""


def tables(path):
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def leave_half_made(path):
    """What MLflow leaves where its process ends in the middle of its migrations."""
    make_whole(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE _alembic_tmp_params (key TEXT)")
        connection.execute("UPDATE alembic_version SET version_num = '39d1c3be5f05'")


def test_a_new_database_is_whole_and_leaves_nothing_beside_it(tmp_path):
    make_whole(tmp_path / "mlflow.db")
    assert {"runs", "experiments", "model_versions"} <= tables(tmp_path / "mlflow.db")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("name", ["half%20done", "why?"])
def test_a_folder_that_no_database_address_can_name_is_refused_before_anything_begins(
    tmp_path, monkeypatch, name
):
    """SQLAlchemy would make the database elsewhere, or end in a traceback."""
    with pytest.raises(UserError, match=r"--output .*choose another folder"):
        check_results(tmp_path / name)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    check_results(tmp_path / name)
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///{0}/half%20done/x.db", "has an escape such as %20"),
        ("sqlite:////proc/none/x.db", "cannot be used"),
        ("oracle+no_such_driver://me:secret@host/db", "cannot be used"),
        ("postgresql+psycopg2://me:secret@host/db", "psycopg2|cannot be used"),
    ],
)
def test_an_address_that_no_store_can_have_is_refused_in_a_line(
    tmp_path, monkeypatch, address, message
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tmp_path))
    with pytest.raises(UserError, match=message) as refused:
        open_store(tmp_path / "Results")
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "half%20done").exists()


def test_a_database_whose_address_has_options_is_made_whole_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db?timeout=60")
    store = open_store(tmp_path / "Results")
    assert store.uri.endswith("/mine.db?timeout=60") and "runs" in tables(tmp_path / "mine.db")
    assert [path.name for path in tmp_path.glob("*.db*")] == ["mine.db"]


@pytest.mark.parametrize("name", ["50 % of é", "#1", 'it\'s "mine"'])
def test_a_store_is_made_in_a_folder_of_any_other_name(tmp_path, name):
    check_results(tmp_path / name)
    store = open_store(tmp_path / name)
    run_id = store.create_run("kept", {})
    store.client.log_text(run_id, "words", "note.txt")
    assert Path(store.client.download_artifacts(run_id, "note.txt")).read_text() == "words"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_database_that_is_killed_while_it_is_made_is_made_by_the_next_start(tmp_path):
    """MLflow itself ends for good in '_alembic_tmp_params already exists'."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "opening\n"
    deadline = time.monotonic() + 30
    while not any(tmp_path.glob(".mlflow.db.*.new")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.2)  # in the middle of about a second of migrations
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    store = open_store(tmp_path)
    assert store.create_run("after the kill", {})
    assert not list(tmp_path.glob(".mlflow.db.*")), "the half-made one is gone too"


def test_a_half_made_database_without_runs_is_replaced(tmp_path):
    leave_half_made(tmp_path / "mlflow.db")
    assert open_store(tmp_path).create_run("first", {})
    assert not any(name.startswith("_alembic_tmp") for name in tables(tmp_path / "mlflow.db"))


def test_a_database_whose_upgrade_was_interrupted_keeps_its_runs(tmp_path):
    path = tmp_path / "mlflow.db"
    run_id = open_store(tmp_path).create_run("kept", {"study": "kept"})
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE _alembic_tmp_params (key TEXT)")
    make_whole(path)
    assert not any(name.startswith("_alembic_tmp") for name in tables(path))
    assert MlflowClient(f"sqlite:///{path}").get_run(run_id).data.tags["study"] == "kept"
    (backup,) = tmp_path.glob("mlflow.db.before-upgrade-*")
    assert "_alembic_tmp_params" in tables(backup)


def test_an_upgrade_that_fails_changes_nothing_and_says_so_in_one_line(tmp_path):
    path = tmp_path / "mlflow.db"
    open_store(tmp_path).create_run("kept", {})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"mlflow\.db: .* cannot be upgraded .* not been changed"):
        upgrade(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("*mlflow.db*") if not p.name.endswith(".lock")] == [
        "mlflow.db"
    ]


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database, but longer than an empty file\n" * 100)
    with pytest.raises(UserError, match=r"mlflow\.db: no SQLite database"):
        open_store(tmp_path)
    assert "no database" in (tmp_path / "mlflow.db").read_text(), "it is the user's file"


def test_the_version_of_the_installed_mlflow_is_that_of_a_new_database(tmp_path):
    make_whole(tmp_path / "mlflow.db")
    assert database._version(tmp_path / "mlflow.db") == database._newest_version()


def test_another_programs_database_is_named_and_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE precious (value TEXT)")
        connection.execute("INSERT INTO precious VALUES ('kept')")
    with pytest.raises(UserError, match="a database of another program"):
        open_store(tmp_path)
    assert "precious" in tables(tmp_path / "mlflow.db")


def test_a_store_without_runs_keeps_its_experiments_and_models(tmp_path):
    client = open_store(tmp_path).client
    client.create_experiment("mine")
    client.create_registered_model("kept")
    make_whole(tmp_path / "mlflow.db")
    assert client.get_registered_model("kept").name == "kept"


def test_a_database_that_is_being_written_is_not_upgraded(tmp_path):
    path = tmp_path / "mlflow.db"
    open_store(tmp_path).create_run("kept", {})
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="cannot be upgraded now"):
        upgrade(path)
    writer.execute("ROLLBACK")
    writer.close()


def test_an_upgrade_that_takes_too_long_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    leave_half_made(path)
    before = path.read_bytes()
    monkeypatch.setattr(database, "UPGRADE_LIMIT_S", 0.01)
    with pytest.raises(UserError, match=r"longer than 0 s.*not been changed"):
        upgrade(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_backup_is_whole_or_not_there(tmp_path, monkeypatch):
    """A process that is killed while it copies must not leave half a backup that looks like one."""
    path, copied = tmp_path / "mlflow.db", []
    leave_half_made(path)
    monkeypatch.setattr(
        database, "_copy", lambda source, target: copied.append(target) or die(target)
    )
    with pytest.raises(KeyboardInterrupt):
        upgrade(path)
    assert copied and [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def die(target):
    target.write_bytes(b"half")
    raise KeyboardInterrupt


MAKE = """
import sys
from pathlib import Path
from segmamba.orchestration.tracking import database
from tests import warm
database._create = warm.MAKE_DATABASE
print("begin", flush=True)
database.make_whole(Path(sys.argv[1]))
print("end", flush=True)
"""


def killed_after(seconds, path):
    """Make or upgrade a database in a process, and kill it so many seconds after it began.

    Returns:
        How long it took, or None where it was killed.
    """
    process = warm.Process([sys.executable, "-c", MAKE, str(path)])
    assert process.stdout.readline() == "begin\n"
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < seconds:
        time.sleep(0.002)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return None
    return time.monotonic() - began


@pytest.mark.slow
def test_30_kills_while_a_database_is_made_lose_no_folder(tmp_path):
    (tmp_path / "first").mkdir()
    whole = killed_after(600, tmp_path / "first" / "mlflow.db")
    moments, kills = random.Random(0), 0
    path = tmp_path / "mlflow.db"
    while kills < 30:
        kills += killed_after(moments.uniform(0, whole), path) is None
        if path.exists():
            assert {"runs", "experiments", "model_versions"} <= tables(path)
            path.unlink()
    make_whole(path)
    assert open_store(tmp_path).create_run("after the kills", {})
    assert not list(tmp_path.glob(".mlflow.db.*")), "the half-made ones are gone"


def make_older(path, run_id):
    """A database of an MLflow of about a year before, with a run."""
    import alembic.command
    import sqlalchemy
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    address = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(address)
    Base.metadata.create_all(engine)
    engine.dispose()
    config = _get_alembic_config(address)
    revisions = [r.revision for r in ScriptDirectory.from_config(config).walk_revisions()]
    alembic.command.upgrade(config, revisions[12])  # the newest comes first
    with sqlite3.connect(path) as connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) "
            "VALUES (0, 'Default', ?, 'active')",
            (str(path.parent / "mlartifacts"),),
        )
        connection.execute(
            "INSERT INTO runs (run_uuid, name, experiment_id, status, lifecycle_stage, "
            "start_time, artifact_uri, source_type, user_id) "
            "VALUES (?, 'kept', 0, 'FINISHED', 'active', 1, ?, 'LOCAL', 'me')",
            (run_id, str(path.parent / "mlartifacts" / run_id / "artifacts")),
        )


@pytest.mark.slow
def test_10_kills_while_an_older_mlflows_database_is_upgraded_lose_no_run(tmp_path):
    older, path, run_id = tmp_path / "older.db", tmp_path / "mlflow.db", "0" * 32
    make_older(older, run_id)
    shutil.copyfile(older, path)
    assert database._version(path) != database._newest_version()
    whole = killed_after(600, path)
    assert database._version(path) == database._newest_version()
    moments, kills = random.Random(0), 0
    shutil.copyfile(older, path)
    while kills < 10:
        kills += killed_after(moments.uniform(0, whole), path) is None
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(run_id,)]
        for backup in tmp_path.glob("mlflow.db.before-upgrade-*"):
            assert database._version(backup) == database._version(older)
            assert database._rows(backup, "runs") == 1
        if database._version(path) == database._newest_version():
            shutil.copyfile(older, path)
    make_whole(path)
    assert open_store(tmp_path).client.get_run(run_id).info.status == "FINISHED"
    assert not list(tmp_path.glob(".mlflow.db.*"))
