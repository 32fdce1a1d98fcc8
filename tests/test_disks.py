"""A disk that takes no more is one line, whoever meets it: the file, the reason and the fix."""

import errno
import os
import sqlite3

import numpy as np
import pytest

from segmamba.commands.shared import new_app, run_app
from segmamba.disks import FULL, QUOTA, READ_ONLY, disk_line, disk_reason, gone_line, is_gone
from segmamba.files import write_bytes, write_json
from tests.small_disks import small_disk


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "64k") as made:
        yield made


def error_of(write):
    with pytest.raises((OSError, sqlite3.Error)) as raised:
        write()
    return raised.value


def test_a_full_disk_is_seen_in_what_files_numpy_and_sqlite_raise(disk):
    database = sqlite3.connect(disk.folder / "store.db")
    database.execute("create table t (x)")
    big = np.arange(2**16)
    for write in (
        lambda: write_bytes(disk.folder / "a.bin", bytes(2**18)),
        lambda: np.save(disk.folder / "b.npy", big),
        lambda: np.save(disk.folder / "c.npy", big.reshape(256, 256)[:, ::2]),
        lambda: database.execute("insert into t values (zeroblob(262144))").connection.commit(),
    ):
        error = error_of(write)
        assert disk_reason(error) == FULL, error
        assert disk_reason(str(error)) == FULL, "also where another process tells of it"
    assert sorted(os.listdir(disk.folder)) == ["b.npy", "c.npy", "store.db"]


def test_the_line_names_the_final_file_the_room_and_the_fix_and_the_old_file_stays(disk):
    file = write_json(disk.folder / "run.json", {"key": 1})
    error = error_of(lambda: write_bytes(file, bytes(2**18)))
    line = disk_line(error, "--resume goes on")
    assert line.startswith(f"{file}: the disk is full (0.")
    assert line.endswith(" of 0.1 MiB are free); free some space, then --resume goes on")
    assert file.read_text() == '{\n "key": 1\n}\n' and os.listdir(disk.folder) == ["run.json"]


def test_a_disk_that_became_read_only_says_so(disk):
    disk.remount("ro")
    error = error_of(lambda: write_bytes(disk.folder / "a.bin", b"a"))
    assert disk_reason(error) == READ_ONLY
    assert "a.bin: the disk is read-only; have it made writable again" in disk_line(error, "go on")


def test_a_quota_is_named_and_an_error_that_is_no_disks_is_not():
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x.nii.gz")
    assert disk_line(quota, "go on", "").startswith(f"x.nii.gz: {QUOTA} (")
    assert "have the quota raised, then go on" in disk_line(quota, "go on")
    for other in (OSError(errno.EIO, "Input/output error"), KeyError("disk"), ValueError("full")):
        assert not disk_reason(other)


def test_the_reason_is_found_behind_other_exceptions_but_not_where_it_is_hidden():
    full = OSError(errno.ENOSPC, "No space left on device", "log.txt")
    wrapped, hidden = RuntimeError("the writer failed"), RuntimeError("something else")
    wrapped.__cause__, hidden.__context__ = full, full
    hidden.__suppress_context__ = True
    assert disk_reason(wrapped) == FULL and disk_line(wrapped, "go on").startswith("log.txt: ")
    assert not disk_reason(hidden)


def test_every_command_ends_in_that_line_with_exit_code_2(disk, capsys):
    app = new_app()

    @app.command()
    def command() -> None:
        """Write too much."""
        np.save(disk.folder / "big.npy", np.zeros(2**16))

    with pytest.raises(SystemExit) as end:
        run_app(app, [])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: the disk is full; free some space, then give the command")
    assert printed.count("\n") == 1


def test_a_folder_that_is_gone_is_told_from_a_file_that_is(tmp_path):
    (tmp_path / "run").mkdir()
    missing = error_of(lambda: write_bytes(tmp_path / "run" / "logs" / "a", b""))
    assert not is_gone(missing, tmp_path / "run")
    (tmp_path / "run").rmdir()
    assert is_gone(missing, tmp_path / "run")
    assert gone_line(tmp_path / "run").startswith(f"{tmp_path / 'run'}: was removed or renamed")
