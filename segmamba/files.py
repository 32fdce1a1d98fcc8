"""Small files that are there whole or not at all, and folders that one process at a time may write."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from segmamba.errors import UserError

LOCK = ".process.lock"


def write_bytes(path, content):
    """Write under a temporary name in the same folder, then rename; what fails half-way leaves nothing."""
    path = Path(path)
    with replacing(path) as file:
        file.write(content)
    return path


@contextlib.contextmanager
def replacing(path):
    """A file under a temporary name that takes `path`'s place when the block ends, once the disk has it; else it goes away again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder):
    """The rename itself reaches the disk; a system that cannot open folders keeps it in its own time."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(path, text):
    """`text` as UTF-8, as `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path, value):
    """`value` as indented JSON; NaN and infinity are refused, since no other JSON reader takes them."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def check_writable(folder):
    """A UserError where results cannot be written to the folder, which is made, before anything is begun."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"--output {folder}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


@contextlib.contextmanager
def locked(folder):
    """Hold the lock of a run's or a study's folder, which the system releases when this process dies, however it dies.

    Raises:
        UserError: another process holds it.
    """
    lock = FileLock(Path(folder) / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"--resume: {Path(folder).name} is still running in another process; wait for it, or stop it first"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_abandoned(folder):
    """Whether no process writes to `folder` any more; False where that cannot be told from this machine."""
    if (
        not folder or not Path(folder).is_dir()
    ):  # its run does not say, or names a folder of another machine
        return False
    try:
        with FileLock(Path(folder) / LOCK, timeout=0):
            return True
    except (Timeout, OSError):
        return False
