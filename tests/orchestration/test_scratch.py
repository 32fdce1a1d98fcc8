"""The temporary folder of a study: short, private, and gone with the study, however that ends."""

import os
import stat
import subprocess
import sys
import tempfile

import pytest

from segmamba.errors import UserError
from segmamba.orchestration.engine import scratch as module
from segmamba.orchestration.engine.scratch import (
    LONGEST_SOCKET,
    PREFIX,
    SOCKET,
    TOKEN_PATH,
    TOKENS,
    own_temporaries,
    scratch,
    temporaries_in,
    token_where_none_can_be_kept,
)
from tests.unprivileged import unprivileged

HOLDS = """
import sys
from segmamba.orchestration.engine.scratch import scratch
with scratch() as folder:
    (folder / "left").write_text("by a killed study")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """A folder for temporary files with a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield folder


LIBRARY = """
import os, subprocess, sys, tempfile
from segmamba.orchestration.engine.scratch import own_temporaries
with own_temporaries():
    child = "import tempfile; tempfile.mkdtemp()"
    subprocess.run([sys.executable, "-c", child], check=True)
    print(tempfile.mkdtemp(), flush=True)
    sys.stdin.read()
"""


def begun(code=HOLDS):
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, process.stdout.readline().strip()


def ended(process):
    process.kill()
    process.communicate()


def aged(folder):
    """As if the folder had been made an hour ago."""
    at = os.stat(folder).st_mtime - 3600
    os.utime(folder, (at, at))


def test_ray_gets_a_token_where_the_users_home_can_keep_none(tmp_path, monkeypatch):
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    with token_where_none_can_be_kept(tmp_path):
        assert TOKEN_PATH not in os.environ, "Ray keeps its own"
    home.chmod(0o555)
    with unprivileged(), token_where_none_can_be_kept(tmp_path):
        given = os.environ[TOKEN_PATH]
        with open(given, encoding="utf-8") as file:
            assert len(file.read()) == 64 and os.path.dirname(given) == str(tmp_path)
    assert TOKEN_PATH not in os.environ
    monkeypatch.setenv("HOME", "")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as of a user without a name
    with token_where_none_can_be_kept(tmp_path):
        assert TOKEN_PATH in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "the user's")
    with token_where_none_can_be_kept(tmp_path):
        assert TOKEN_PATH not in os.environ


def test_it_is_private_and_gone_after_the_block_and_after_an_error(place):
    with scratch() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and str(folder.parent) == place
    with pytest.raises(KeyboardInterrupt), scratch():
        raise KeyboardInterrupt
    assert os.listdir(place) == []


def test_what_a_killed_study_left_goes_with_the_next_one_and_what_a_running_one_uses_stays(place):
    (running, used), (killed, left) = begun(), begun()
    ended(killed)
    aged(used)
    mine = [
        os.path.join(place, name)
        for name in ("segmamba-results", ".segmamba-abcdefgh", ".segmamba-my results")
    ]
    for folder in mine:
        os.makedirs(os.path.join(folder, "study_Run01"))
        aged(folder)
    with scratch():
        assert os.path.exists(used) and not os.path.exists(left)
    ended(running)
    assert all(os.path.exists(os.path.join(folder, "study_Run01")) for folder in mine)


def test_temporary_files_of_libraries_go_with_their_process_and_its_children(place, monkeypatch):
    process, made = begun(LIBRARY)
    assert len(os.listdir(os.path.dirname(made))) == 2 and len(os.listdir(place)) == 1
    ended(process)
    with scratch():
        assert not os.path.exists(made) and len(os.listdir(place)) == 1
    with own_temporaries():
        own = tempfile.mkdtemp()
        assert os.environ["TMPDIR"] == os.path.dirname(own) != place
    assert os.environ["TMPDIR"] == place and tempfile.gettempdir() == place
    assert os.listdir(place) == []
    monkeypatch.delenv("TMPDIR")
    with own_temporaries():
        assert "TMPDIR" in os.environ
    assert "TMPDIR" not in os.environ


def test_they_stay_where_they_were_where_sockets_would_have_too_long_names(tmp_path, place):
    deep = tmp_path / ("a" * 80)
    deep.mkdir()
    with temporaries_in(deep):
        assert os.environ["TMPDIR"] == tempfile.gettempdir() == place
    assert list(deep.iterdir()) == []


def test_where_the_systems_folder_has_too_long_a_name_another_one_is_taken(place, monkeypatch):
    deep = os.path.join(place, "a" * 60)
    os.mkdir(deep)
    monkeypatch.setattr(tempfile, "tempdir", deep)
    with scratch() as folder:
        assert not str(folder).startswith(place)
        assert len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET
        assert folder.name.startswith(PREFIX)
    monkeypatch.setattr(module.os, "access", lambda path, mode: path == deep)
    with pytest.raises(UserError, match=r"at most \d+ bytes; .*a+ is none, set RAY_TMPDIR"):
        scratch().__enter__()


def test_ray_tmpdir_comes_first(place, monkeypatch):
    chosen = os.path.join(place, "m")
    os.mkdir(chosen)
    monkeypatch.setenv("RAY_TMPDIR", chosen)
    with scratch() as folder:
        assert str(folder.parent) == chosen


def test_what_versions_before_left_goes_where_nobody_can_be_using_it(place, monkeypatch):
    monkeypatch.setattr("psutil.boot_time", lambda: os.stat(place).st_mtime - 10)
    old, fresh, own, other = (
        os.path.join(place, name)
        for name in ("segmamba_tune_abcd_012", "segmamba_tune_abcd_013", "segmamba_tune_abcd_014")
        + ("segmamba_tune_of_mine",)
    )
    for folder in (old, fresh, own, other):
        run = os.path.join(folder, "notes" if folder == own else "2026-11-29_00-42-05")
        os.makedirs(os.path.join(run, "trial_1"))
        for path in (os.path.join(run, "trial_1"), run, folder):
            aged(path)
    os.utime(os.path.join(fresh, "2026-11-29_00-42-05"))
    with scratch():
        pass
    assert sorted(os.listdir(place)) == sorted(map(os.path.basename, (fresh, own, other)))
