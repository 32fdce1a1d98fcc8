"""The C library's memory allocator, told to keep what is freed, or to give it back.

By default it gives every freed tensor above a size back to the system and asks for a new one. The
system clears each page again, a fault for every 4 KiB: 19,000 of them in a step of the demo. Of
small objects it keeps what lies between others that are in use.
"""

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""
NEVER = 2**31 - 1
LARGEST_BEFORE_2_35 = 32 * 2**20
"""The largest M_MMAP_THRESHOLD that glibc took before 2.35, in bytes."""


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors, where its C library can."""
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, NEVER)
        if not mallopt(M_MMAP_THRESHOLD, NEVER):
            mallopt(M_MMAP_THRESHOLD, LARGEST_BEFORE_2_35)


def return_freed_memory() -> None:
    """Give the system back what this process has freed, where its C library can."""
    malloc_trim = _of_the_c_library("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    """A function of Linux's C library; None elsewhere and where it lacks it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
