"""The C library's memory allocator, told to keep what is freed.

By default it gives every freed tensor above a size back to the system and asks for a new one. The
system clears each page again, a fault for every 4 KiB: 19,000 of them in a step of the demo.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""
NEVER = 2**31 - 1
LARGEST_BEFORE_2_35 = 32 * 2**20
"""The largest M_MMAP_THRESHOLD that glibc took before 2.35, in bytes."""


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors, where its C library can."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries may lack it
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, NEVER)
        if not mallopt(M_MMAP_THRESHOLD, NEVER):
            mallopt(M_MMAP_THRESHOLD, LARGEST_BEFORE_2_35)
