"""Files that exist whole or not at all, and folders that one process at a time may write."""

import json
import os
import subprocess
import sys

import pytest

from segmamba.errors import UserError
from segmamba.files import (
    LOCK,
    check_writable,
    is_abandoned,
    locked,
    replacing,
    seen_from,
    write_bytes,
    write_json,
    write_text,
)

HOLD = """
import sys
from segmamba.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path until its input ends, or until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("write", "value", "content"),
    [
        (write_bytes, b"\x00\xff", b"\x00\xff"),
        (write_text, "Größe\n", "Größe\n".encode()),
        (write_json, {"a": [1, 0.5]}, b'{\n "a": [\n  1,\n  0.5\n ]\n}\n'),
    ],
)
def test_what_is_written_replaces_the_earlier_file_and_leaves_no_other(
    tmp_path, write, value, content
):
    path = tmp_path / "file"
    path.write_bytes(b"earlier, and longer than what comes now" * 9)
    assert write(str(path), value) == path
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_json_refuses_what_no_other_reader_takes_and_keeps_the_earlier_file(tmp_path):
    path = write_json(tmp_path / "file.json", {"dice": 0.5})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(path, {"dice": value})
    assert json.loads(path.read_text()) == {"dice": 0.5} and list(tmp_path.iterdir()) == [path]


def test_a_file_stays_the_earlier_one_until_the_new_one_is_whole_and_on_the_disk(
    tmp_path, monkeypatch
):
    path, synced = write_text(tmp_path / "file", "earlier"), []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: synced.append(path.read_text()) or fsync(number)
    )
    with replacing(path) as file:
        file.write(b"half")
        assert path.read_text() == "earlier"
    assert path.read_text() == "half"
    assert synced == ["earlier", "half"], "the file before its rename, the folder after it"


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file_and_no_other(tmp_path, monkeypatch, failing):
    path = write_text(tmp_path / "file", "earlier")

    def full(*given):
        raise OSError("No space left on device")

    if failing != "write":
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"), replacing(path) as file:
        file.write(b"half")
        if failing == "write":
            full()
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_paths_in_a_reason_are_those_seen_from_the_studys_folder(tmp_path, monkeypatch):
    results = tmp_path / "my Results"
    study = results / "Depth_Run01"
    study.mkdir(parents=True)
    reason = f"{study}/a/seed0/last.pth: damaged (see {study}/a/logs/error.txt), {results}/cache/x"
    shown = "a/seed0/last.pth: damaged (see a/logs/error.txt), ../cache/x"
    assert seen_from(study, reason) == shown
    monkeypatch.chdir(tmp_path)
    assert seen_from("my Results/Depth_Run01", reason) == shown
    for elsewhere in (f"/mnt{study}/a", "/data/brats/x.nii.gz", f"{results}2/x", "a | <b> [/c]"):
        assert seen_from(study, elsewhere) == elsewhere
    assert seen_from("/Results", "/data/brats, /Results/a") == "/data/brats, a"


def test_a_folder_for_results_is_made_and_a_file_in_its_place_is_named(tmp_path):
    check_writable(tmp_path / "new" / "Results")
    assert list((tmp_path / "new" / "Results").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output .*file/Results: cannot be written \(.*; choose"):
        check_writable(tmp_path / "file" / "Results")


def test_a_lock_refuses_other_processes_in_one_line_until_its_block_ends(tmp_path, holder):
    with (
        pytest.raises(UserError, match=f"--resume: {tmp_path.name} is still running"),
        locked(tmp_path),
    ):
        pytest.fail("two processes write to one folder")
    assert not is_abandoned(tmp_path)
    holder.stdin.close()
    assert holder.wait(timeout=30) == 0
    assert is_abandoned(tmp_path)
    with locked(tmp_path):
        assert not is_abandoned(tmp_path)


def test_the_lock_of_a_killed_process_is_released(tmp_path, holder):
    holder.kill()
    holder.wait(timeout=30)
    assert (tmp_path / LOCK).exists() and is_abandoned(tmp_path)
    with locked(tmp_path):
        pass


def test_a_lock_is_released_when_its_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert is_abandoned(tmp_path)


def test_a_folder_that_this_machine_cannot_see_is_not_called_abandoned(tmp_path):
    assert not is_abandoned("") and not is_abandoned(tmp_path / "of another machine")
    (tmp_path / "file").write_text("")
    assert not is_abandoned(tmp_path / "file")
    (tmp_path / LOCK).mkdir()
    assert not is_abandoned(tmp_path), "a lock that cannot be opened says nothing"
