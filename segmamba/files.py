"""Small files that exist whole or not at all, and folders that one process at a time may write."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from segmamba.disks import naming
from segmamba.errors import UserError
from segmamba.leftovers import temporary_beside

LOCK = ".process.lock"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes its place once it is whole and on the disk.

    Args:
        path: The file's place. An earlier file stays there until the block ends, and for good if
            the block fails.

    Yields:
        The file, under a temporary name in the same folder.
    """
    temporary = temporary_beside(path)
    try:
        with naming(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a rename in the folder to the disk.

    A system that cannot open folders brings it there in its own time.
    """
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path | str, content: bytes) -> Path:
    """Write a file as `replacing` does.

    Args:
        path: The file's place; its folder must exist.
        content: What the file holds.

    Returns:
        The path.
    """
    path = Path(path)
    with replacing(path) as file:
        file.write(content)
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write a text as UTF-8, as `write_bytes` does."""
    return write_bytes(path, text.encode())


def write_json(path: Path | str, value: object) -> Path:
    """Write a value as indented JSON, as `write_bytes` does.

    Raises:
        ValueError: The value holds NaN or infinity, which no other JSON reader takes.
    """
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def seen_from(folder: Path | str, text: str) -> str:
    """Write the paths in a text as they are seen from a folder: it may be moved, or sent.

    Args:
        folder: The folder.
        text: What may name paths below it or beside it.

    Returns:
        The text. Paths elsewhere stay as they are.
    """
    for path in dict.fromkeys((Path(os.path.abspath(folder)), Path(folder).resolve())):
        text = re.sub(rf"(?<![\w/.-]){re.escape(f'{path}{os.sep}')}", "", text)
        if path.parent != path.parent.parent:  # below the root lies everything
            beside = re.escape(f"{path.parent}{os.sep}")
            text = re.sub(rf"(?<![\w/.-]){beside}", f"..{os.sep}", text)
    return text


def is_there(path: Path | str) -> bool:
    """Tell whether something is seen at a path; False also where this user may not look."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def is_gone(path: Path | str) -> bool:
    """Tell whether nothing is at a path; False also where this user may not look."""
    try:
        return not Path(path).exists()
    except OSError:
        return False


def was_moved(before: object, now: object) -> bool:
    """Tell whether two settings may name one folder or file that was moved in between.

    Args:
        before: The path as it was.
        now: The path as it is.

    Returns:
        False also where both exist, or neither: then they are two.
    """
    paths = isinstance(before, str) and isinstance(now, str) and before and now
    return bool(paths) and is_gone(str(before)) and is_there(str(now))


def check_writable(folder: Path | str, option: str = "--output") -> None:
    """Make the folder of the results, and check that it can be written before anything begins.

    Args:
        folder: The folder.
        option: How the user named it.

    Raises:
        UserError: It cannot be written.
    """
    with _explained(folder, option):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_may_be_made(path: Path | str, option: str) -> None:
    """Check that a file or a folder can be written or made, and make nothing.

    Args:
        path: The file or folder.
        option: How the user named it.

    Raises:
        UserError: It cannot.
    """
    with _explained(path, option):
        near = Path(path) if Path(path).is_dir() else Path(path).absolute().parent
        while not near.exists() and near != near.parent:
            near = near.parent
        with tempfile.TemporaryFile(dir=near):
            pass
        if Path(path).is_file():
            os.close(os.open(path, os.O_WRONLY))


@contextlib.contextmanager
def _explained(path: Path | str, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError: NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(
            f"{option} {path}: cannot be written ({reason}); choose another folder"
        ) from error


@contextlib.contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Hold the lock of a run's or a study's folder.

    The system releases the lock when this process dies, however it dies.

    Raises:
        UserError: Another process holds the lock.
    """
    lock = FileLock(Path(folder) / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"--resume: {Path(folder).name} is still running in another process; "
            "wait for it, or stop it first"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_abandoned(folder: Path | str) -> bool:
    """Tell whether no process holds the lock of a run's or a study's folder any more.

    Args:
        folder: The folder; empty where the run does not say.

    Returns:
        False also where this machine cannot tell: there is no such folder here, or its lock
        cannot be opened.
    """
    if not folder or not Path(folder).is_dir():
        return False
    try:
        with FileLock(Path(folder) / LOCK, timeout=0):
            return True
    except (Timeout, OSError):
        return False
