"""Where libraries keep what they compile, for a process whose own cache folder cannot be written.

A container with a read-only root file system is such a place, and an account without a home.
Imports nothing slow, and must run before torch, Triton and matplotlib are imported.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

FOLDERS = {
    "XDG_CACHE_HOME": "cache",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MPLCONFIGDIR": "matplotlib",
}
"""The variables that name a cache, and the folders that they get."""
SHARED_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def writable_caches() -> Iterator[bool]:
    """Give libraries a private temporary folder for caches, where the usual one cannot be written.

    A variable that is set stays as it is. The folder goes at the end.

    Yields:
        Whether programs can be compiled and loaded: False where every folder that can be written
        is one that the system loads no program from, as Docker's --tmpfs is without `exec`, or
        none can be written.
    """
    wanted = [name for name in FOLDERS if not os.environ.get(name)]
    if not wanted or _has_cache():
        yield True
        return
    place = _place()
    if place is None:
        yield False
        return
    with tempfile.TemporaryDirectory(
        prefix="segmamba_caches_", dir=place, ignore_cleanup_errors=True
    ) as folder:
        os.environ |= {name: str(Path(folder) / FOLDERS[name]) for name in wanted}
        for name in wanted:
            Path(os.environ[name]).mkdir(mode=0o700)
        try:
            yield _runs_programs(place)
        finally:
            for name in wanted:
                os.environ.pop(name, None)


def _has_cache() -> bool:
    """Whether the user's cache folder can be made and written."""
    try:
        folder = Path.home() / ".cache"
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the latter where the user has no home
        return False


def _place() -> Path | None:
    """The folder for the caches: one that programs run from, else any that can be written."""
    try:
        usual = [Path(tempfile.gettempdir())]
    except FileNotFoundError:
        usual = []
    found = [place for place in (*usual, SHARED_MEMORY) if os.access(place, os.W_OK | os.X_OK)]
    return next(filter(_runs_programs, found), found[0] if found else None)


def _runs_programs(place: Path) -> bool:
    """Whether the system loads programs from a folder's file system."""
    return not os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)
