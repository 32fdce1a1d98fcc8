"""Temporary files that say whose they are, and the removal of what killed processes left.

A name tells the machine, the process and the system that numbered the process:
`.NAME.MACHINE-PROCESS-SYSTEM-RANDOM.part`. Nobody else makes such names. What carries one is
removed only where it is this user's and its process is gone from this machine. Where another system
has numbered the process, as in another container, which may have the same machine's name, nothing
may have touched it for an hour either.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _system() -> str:
    """Name this boot of the machine and its space of process numbers; empty where it has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return _digest(boot + os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""


MACHINE = _digest(socket.gethostname())
SYSTEM = _system()
OURS = re.compile(rf"\..+\.{MACHINE}-(\d+)-(?:([0-9a-f]{{8}})-)?[0-9a-f]{{8}}\.part")
OLD_S = 3600.0
"""How long a file of a process of another system stays, in seconds."""
LONGEST = 40
"""Characters of the final name that a temporary one repeats, for who looks into the folder."""


def temporary_beside(path: Path) -> Path:
    """Return a temporary name in the folder of what will take its place.

    Args:
        path: The final file or folder.
    """
    mark = "-".join(filter(None, (MACHINE, str(os.getpid()), SYSTEM, secrets.token_hex(4))))
    return path.with_name(f".{path.name[:LONGEST]}.{mark}.part")


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder, private to this user, beside what it will become or is made for.

    What killed processes have left there goes, too, and so does the folder when the block ends,
    unless it was renamed.

    Args:
        path: The final file or folder.

    Yields:
        The folder.
    """
    remove_leftovers(path.parent)
    folder = temporary_beside(path)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(*folders: Path) -> None:
    """Remove what killed processes of this user and machine have left in folders.

    Args:
        folders: Looked at themselves, not what is below them; one that is not there is passed over.
    """
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                ours = OURS.fullmatch(entry.name)
                if ours and _is_left(entry, int(ours[1]), ours[2] or ""):
                    _remove(Path(entry.path))


def _is_left(entry: os.DirEntry[str], process: int, system: str) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    old = time.time() - status.st_mtime > OLD_S
    mine = os.name == "posix" and status.st_uid == os.getuid()
    here = bool(system) and system == SYSTEM
    return (here or old) and mine and not entry.is_symlink() and not _lives(process)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
