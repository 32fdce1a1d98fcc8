"""The process that drives a study: one at a time, and known to be gone however it died."""

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from segmamba.errors import UserError

LOCK = ".driver.lock"


@contextlib.contextmanager
def only_driver(folder):
    """Holds the study's lock, which the system lets go when this process dies, however it dies."""
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"--resume: {folder.name} is still running in another process; wait for it, or stop it first") from error
    try:
        yield
    finally:
        lock.release()


def is_abandoned(folder):
    """Whether the study in `folder` has no driver any more; False where that cannot be told from here."""
    if not folder or not Path(folder).is_dir():  # its run does not say, or names a folder of another machine
        return False
    try:
        with FileLock(Path(folder) / LOCK, timeout=0):
            return True
    except (Timeout, OSError):
        return False
