"""A process whose home cannot be written keeps what it compiles in a folder of its own."""

import os
import stat
from pathlib import Path

import pytest

from segmamba import caches
from segmamba.caches import FOLDERS, writable_caches


@pytest.fixture(autouse=True)
def without_choices(monkeypatch):
    for name in FOLDERS:
        monkeypatch.delenv(name, raising=False)


def test_a_home_that_can_be_written_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with writable_caches() as programs_run:
        assert programs_run and not set(FOLDERS) & set(os.environ)


def test_without_a_home_the_caches_are_private_and_go_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/chosen/by/the/user")
    with writable_caches() as programs_run:
        assert programs_run
        for name in set(FOLDERS) - {"TRITON_CACHE_DIR"}:
            folder = Path(os.environ[name])
            assert folder.is_relative_to(tmp_path) and os.access(folder, os.W_OK)
            assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        assert os.environ["TRITON_CACHE_DIR"] == "/chosen/by/the/user"
    assert not list(tmp_path.iterdir())
    assert set(FOLDERS) & set(os.environ) == {"TRITON_CACHE_DIR"}


def test_a_folder_that_runs_no_programs_is_taken_last_and_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(caches, "SHARED_MEMORY", other)
    monkeypatch.setattr(caches, "_runs_programs", lambda place: place == other)
    with writable_caches() as programs_run:
        assert programs_run and Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(other)
    monkeypatch.setattr(caches, "_runs_programs", lambda place: False)
    with writable_caches() as programs_run:
        assert not programs_run and Path(os.environ["TRITON_CACHE_DIR"]).parent.parent == tmp_path


def test_where_nothing_can_be_written_nothing_is_chosen(monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(caches, "_place", lambda: None)
    with writable_caches() as programs_run:
        assert not programs_run and not set(FOLDERS) & set(os.environ)
