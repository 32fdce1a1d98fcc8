"""Disks that take no more, and folders that are gone: seen in any exception, said in one line."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL, QUOTA, READ_ONLY = "the disk is full", "the disk quota is used up", "the disk is read-only"
BY_NUMBER = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: QUOTA,
    errno.EFBIG: "the disk takes no file of this size",
    errno.EROFS: READ_ONLY,
}
BY_WORDS = {
    # The last ones are NumPy's and torch's, which do not say why.
    r"No space left on device|disk is full|\d+ requested and \d+ written"
    r"|problem writing element \d+ to file|inline_container.*unexpected pos": FULL,
    r"Disk quota exceeded|quota is used up": QUOTA,
    r"Read-only file system|attempt to write a readonly database|disk is read-only": READ_ONLY,
}
"""For what names no number: SQLite, MLflow, other processes."""
FIXES = {QUOTA: "remove files or have the quota raised", READ_ONLY: "have it made writable again"}
FIX = "free some space"
SHARED_MEMORY = Path("/dev/shm")


def disk_reason(error: BaseException | str) -> str:
    """Say why a disk takes no more.

    Args:
        error: An exception, which is looked into with those that led to it, or its text.

    Returns:
        The reason; empty where no disk is to blame.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in BY_NUMBER:
            return BY_NUMBER[one.errno]
        for words, reason in BY_WORDS.items():
            if re.search(words, str(one)):
                return reason
    return ""


def disk_line(error: BaseException | str, go_on: str, place: Path | str = "") -> str:
    """Name the file, the reason, the room that is left and the fix, in one line.

    Args:
        error: One for which `disk_reason` gives a reason.
        go_on: What goes on once there is space, as "the same command goes on".
        place: The file or folder that was written, where the exception does not know.
    """
    system = [one for one in _chain(error) if isinstance(one, OSError)]
    place = next((str(one.filename) for one in system if one.filename), str(place))
    if not place and SHARED_MEMORY.is_dir() and not shutil.disk_usage(SHARED_MEMORY).free:
        place = str(SHARED_MEMORY)  # semaphores lie there, whose errors name no file
    reason = disk_reason(error)
    where = f"{_final_name(place)}: " if place else ""
    room = f" ({_room(Path(place))})" if place and reason != READ_ONLY else ""
    return f"{where}{reason}{room}; {FIXES.get(reason, FIX)}, then {go_on}"


def is_gone(error: BaseException, folder: Path | str) -> bool:
    """Tell whether an exception comes of a folder that was removed or renamed meanwhile."""
    missing = (FileNotFoundError, NotADirectoryError)
    return not Path(folder).is_dir() and any(isinstance(one, missing) for one in _chain(error))


def gone_line(folder: Path | str) -> str:
    """Say that a folder was removed or renamed while something was written there."""
    return (
        f"{folder}: was removed or renamed while it was written to; leave it in place, and bring "
        "it back for --resume or start anew"
    )


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Have the OSErrors of a block name the file that it writes; those of `write` do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None and disk_reason(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _chain(error: BaseException | str) -> Iterator[BaseException | str]:
    """The exception and those that led to it."""
    seen: list[BaseException | str] = []
    following: BaseException | str | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        if isinstance(following, str):
            return
        context = None if following.__suppress_context__ else following.__context__
        following = following.__cause__ or context


def _final_name(place: str) -> str:
    """The path without what a temporary name has around the final one."""
    folder, name = os.path.split(place)
    temporary = re.fullmatch(r"\.(.+)\.[0-9a-f]{8}-\d+-(?:[0-9a-f]{8}-)?[0-9a-f]{8}\.part", name)
    return os.path.join(folder, temporary[1]) if temporary else place


def _room(place: Path) -> str:
    """How much of the disk is free there."""
    near = place.absolute()
    while not near.is_dir() and near != near.parent:
        near = near.parent
    try:
        usage = shutil.disk_usage(near)
    except OSError:
        return "its room is not known"
    return f"{usage.free / 2**20:,.1f} of {usage.total / 2**20:,.1f} MiB are free"
