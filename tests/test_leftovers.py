"""What killed processes leave goes at a later start, and nothing else does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segmamba import leftovers
from segmamba.files import replacing
from segmamba.leftovers import MACHINE, folder_beside, remove_leftovers, temporary_beside

KILLED = """
import os, signal, sys
from pathlib import Path
from segmamba.files import replacing
from segmamba.leftovers import folder_beside
with replacing(Path("last.pth")) as file, folder_beside(Path("bundle")) as folder:
    file.write(b"half")
    (folder / "model.pt").write_bytes(b"half")
    file.flush()
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("here", flush=True)
    sys.stdin.read()
"""


def started(cwd, how):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, how], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def aged(folder):
    """As if an hour and more had passed."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 4000,) * 2, follow_symlinks=False)


@pytest.mark.skipif(not leftovers.SYSTEM, reason="this system has no name")
def test_what_a_killed_process_left_goes_at_once(tmp_path):
    started(tmp_path, "killed").communicate()
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("system", ["", "01234567"], ids=["unknown", "another"])
def test_what_a_process_of_another_system_left_goes_once_it_is_old(tmp_path, monkeypatch, system):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(leftovers, "SYSTEM", system)
        elsewhere.setattr(os, "getpid", lambda: 2**22 + 1)  # no process here has that number
        for name in ("last.pth", "bundle"):
            temporary_beside(tmp_path / name).write_text("half")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "as of another container's living process"
    aged(tmp_path)
    with folder_beside(tmp_path / "next") as folder:
        assert list(tmp_path.iterdir()) == [folder] and folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_stays(tmp_path):
    process = started(tmp_path, "lives")
    try:
        assert process.stdout.readline() == b"here\n"
        aged(tmp_path)
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.parametrize(
    "name",
    [
        ".notes.part",
        ".last.pth.1234.5678",
        "last.pth.{machine}-{dead}-0123abcd.part",
        ".last.pth.{machine}-{dead}-0123abcd.part.txt",
        ".last.pth.00000000-{dead}-0123abcd.part",
        ".last.pth.{machine}-{dead}-mine.part",
        ".last.pth.{machine}-{dead}-{system}-mine.part",
    ],
)
def test_no_file_with_another_name_goes(tmp_path, name):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = tmp_path / name.format(machine=MACHINE, dead=dead.pid, system=leftovers.SYSTEM)
    kept.write_text("a user's")
    aged(tmp_path)
    remove_leftovers(tmp_path, tmp_path / "absent", kept)
    assert kept.read_text() == "a user's"


def test_a_link_and_another_users_file_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_lives", lambda process: False)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("a user's")
    link = temporary_beside(tmp_path / "x")
    link.symlink_to(precious)
    other = temporary_beside(tmp_path / "y")
    other.write_text("another's")
    aged(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: other.stat().st_uid + 1)
    remove_leftovers(tmp_path)
    assert other.exists()
    monkeypatch.undo()
    monkeypatch.setattr(leftovers, "_lives", lambda process: False)
    remove_leftovers(tmp_path)
    assert link.is_symlink() and (precious / "data").exists() and not other.exists()


def test_long_names_and_those_of_other_scripts_have_temporary_ones(tmp_path):
    path = tmp_path / ("上" * 80)
    with replacing(path) as file:
        file.write(b"x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert len(os.fsencode(temporary_beside(Path("上" * 80)).name)) < 200
