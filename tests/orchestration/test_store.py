"""Calls to a store that is away or whose disk is full; a study that is not where it is sought."""

import dataclasses
import sqlite3
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from segmamba.errors import UserError
from segmamba.orchestration.engine.resume import check_place, check_same
from segmamba.orchestration.tracking import store as store_module
from segmamba.orchestration.tracking.store import Store, StudyHalted, open_store, patience_s

URI = "http://127.0.0.1:5000"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(store_module, "PAUSE_S", 0.01)
    monkeypatch.setenv("SEGMAMBA_PATIENCE_S", "30")


def failing(times, error):
    def call():
        nonlocal times
        times -= 1
        if times >= 0:
            raise error
        return "answer"

    return call


def test_an_absent_store_is_waited_for_and_told_of_once():
    said = []
    assert (
        Store(URI, "1").retry(failing(3, requests.ConnectionError("refused")), said.append)
        == "answer"
    )
    assert len(said) == 1 and URI in said[0] and "refused" in said[0]


def test_one_that_stays_away_ends_in_a_line_that_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("SEGMAMBA_PATIENCE_S", "0.05")
    with pytest.raises(StudyHalted, match=r"has not answered for 0 s \(refused\).*--resume"):
        Store(URI, "1").retry(
            failing(10**9, requests.ConnectionError("refused")), lambda text: None
        )


def test_a_full_disk_is_not_waited_for():
    for error in (
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
    ):
        with pytest.raises(StudyHalted, match=r"the disk is full; free some space.*--resume"):
            Store(URI, "1").retry(failing(10**9, error), lambda text: None)


def test_a_database_that_was_removed_or_renamed_is_not_waited_for_and_not_made_again(tmp_path):
    store = open_store(tmp_path)
    database = tmp_path / "mlflow.db"
    database.rename(tmp_path / "elsewhere.db")
    with pytest.raises(StudyHalted, match=rf"^{database}: was removed or renamed while"):
        store.retry(failing(10**9, sqlite3.OperationalError("unable to open")), lambda text: None)
    assert not database.exists()


def test_a_mistake_of_ours_is_raised_at_once():
    said = []
    with pytest.raises(KeyError):
        Store(URI, "1").retry(failing(1, KeyError("seed")), said.append)
    assert not said


def test_a_file_of_a_servers_is_read_and_no_copy_of_it_stays(tmp_path, monkeypatch):
    def download_artifacts(run_id, name, folder=None):
        path = Path(folder or tempfile.mkdtemp(), name)  # as MLflow does
        path.write_text("{}")
        return str(path)

    client = SimpleNamespace(download_artifacts=download_artifacts)
    monkeypatch.setattr(store_module, "_client", lambda uri: client)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Store(URI, "1").artifact_json("run", "study.json", dict) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_study_goes_on_where_its_checkpoints_are_or_where_they_were_moved(tmp_path):
    old, new = tmp_path / "old" / "depth_Run01", tmp_path / "new" / "depth_Run01"
    with pytest.raises(UserError, match=f"depth_Run01 began in {old}; give --output {old.parent}"):
        check_place(str(old), new)
    new.mkdir(parents=True)
    check_place(str(old), new)  # moved
    old.mkdir(parents=True)
    with pytest.raises(UserError, match="began in"):
        check_place(str(old), new)
    check_place(str(old), old)


def test_data_that_were_moved_are_the_same_data_and_those_beside_them_are_not(make_study, tmp_path):
    was, now = tmp_path / "was", tmp_path / "now"
    now.mkdir()
    begun, planned = (
        dataclasses.replace(study, config={**study.config, "data.source": str(place)})
        for study, place in ((make_study(), was), (make_study(), now))
    )
    check_same(begun, planned)
    was.mkdir()
    with pytest.raises(UserError, match=r"data\.source was"):
        check_same(begun, planned)


def test_a_patience_that_is_no_number_is_one_line(monkeypatch):
    monkeypatch.setenv("SEGMAMBA_PATIENCE_S", "10min")
    with pytest.raises(UserError, match="SEGMAMBA_PATIENCE_S=10min: give seconds"):
        patience_s()
