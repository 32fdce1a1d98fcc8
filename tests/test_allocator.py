"""Freed memory goes back to the system when it is asked for."""

import subprocess
import sys

import pytest

PROGRAM = """
import psutil
from segmamba.allocator import return_freed_memory

def used_mib():
    return psutil.Process().memory_info().rss / 2**20

pieces = [bytes(1000) for _ in range(200_000)]
pieces = pieces[-1:]  # it lies behind all others, so that the C library keeps those
before = used_mib()
return_freed_memory()
print(before - used_mib())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is asked")
def test_what_lies_freed_between_objects_in_use_is_given_back():
    freed_mib = float(subprocess.check_output([sys.executable, "-c", PROGRAM], text=True))
    assert freed_mib > 100
