"""The kernels of cpu_kernels/, compiled beforehand for machines that have no compiler.

A container is built on one processor and run on others, often without a compiler and without a
folder that can be written. The library is therefore compiled for levels of processors, as the
x86-64 psABI names them, and the best that the processor has is loaded. Results differ from those of
a library that was compiled on the machine itself in the last bits at most.
"""

import os
import stat
from pathlib import Path

VARIABLE = "SEGMAMBA_CPU_LIBRARIES"
"""The environment variable that names the folder of the libraries."""
ROOT = 0
"""The user id whose files are trusted, too."""
MACHINES = ("x86_64", "AMD64")
"""The machines whose processors have levels, as Python's `platform` names them."""
LEVELS = {
    "x86-64-v4": frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    "x86-64-v3": frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"]),
}
"""What a processor must have, by /proc/cpuinfo's names; the best level first. Each includes those
behind it. Source: System V Application Binary Interface, AMD64 supplement, section 3.1.1."""


def levels_of(flags: str) -> list[str]:
    """Name the levels that a processor has, the best first.

    Args:
        flags: The line of /proc/cpuinfo that lists its features.
    """
    has, fitting = set(flags.split()), list[str]()
    for level, needed in reversed(LEVELS.items()):
        if not needed <= has:
            break
        fitting.insert(0, level)
    return fitting


def file_name(level: str, digest: str) -> str:
    """Name the library of a level.

    Args:
        level: One of LEVELS.
        digest: Of the sources that it is made from.
    """
    return f"cpu_kernels_{digest[:16]}_{level}.so"


def prebuilt_library(flags: str, digest: str) -> Path | None:
    """Find the best library that this processor runs.

    What is loaded runs with this user's rights: files that others than the user and root may write
    are left.

    Args:
        flags: As `levels_of` takes them.
        digest: Of the sources that it must be made from.

    Returns:
        The library; None where SEGMAMBA_CPU_LIBRARIES names no folder, or it holds none that fits.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    files = (Path(folder) / file_name(level, digest) for level in levels_of(flags))
    return next(filter(_is_safe, files), None)


def _is_safe(library: Path) -> bool:
    """Whether a library, and its folder, is the user's or root's, and no other may write it."""
    try:
        states = [path.stat() for path in (library, library.parent)]
    except OSError:
        return False
    return all(
        state.st_uid in (ROOT, os.geteuid()) and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for state in states
    )
