"""The temporary folder of a study: short, its own, and gone with the study, however that ends."""

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from segmamba.errors import UserError
from segmamba.files import LOCK, is_abandoned, locked

PREFIX = ".segmamba-"
MADE = re.compile(re.escape(PREFIX) + r"\w{8}")
"""A name that `tempfile.mkdtemp` gives such a folder, and nobody else."""
SOCKET = "session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest name that Ray gives a socket in its temporary folder."""
LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path on every system: `sun_path` has 104 of them on macOS, 108 on
Linux, of which one ends it."""
NEW_S = 60.0
"""Seconds for which a folder that nobody has locked is taken for one that is just being made."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a temporary folder that nobody else can read, and remove it when the block ends.

    What studies that were killed have left there goes, too.

    Yields:
        The folder, in which Ray can have its sockets.

    Raises:
        UserError: There is no place for it.
    """
    place = _place()
    for left in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            status = left.stat()
            ours = MADE.fullmatch(left.name) and status.st_uid == os.getuid()
            old = (left / LOCK).exists() and time.time() - status.st_mtime > NEW_S
            if ours and old and is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    """The first folder for temporary files in which Ray's sockets have short enough names."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    for place in filter(None, places):
        socket = os.path.join(os.path.abspath(place), f"{PREFIX}12345678", SOCKET)
        if len(os.fsencode(socket)) <= LONGEST_SOCKET and os.access(place, os.W_OK | os.X_OK):
            return Path(place).absolute()
    longest = LONGEST_SOCKET - len(SOCKET) - len(PREFIX) - 10
    raise UserError(
        f"Ray's sockets need a folder that can be written, with a name of at most {longest} bytes; "
        f"{tempfile.gettempdir()} is none, set RAY_TMPDIR to one"
    )
