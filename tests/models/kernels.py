"""What the tests of cpu_kernels/ share."""

import contextlib

import pytest
import torch

from segmamba.models.cpu_library import find_library

needs_kernels = pytest.mark.skipif(
    find_library()[0] is None, reason=f"no kernels: {find_library()[1]}"
)


@contextlib.contextmanager
def threads(count):
    """Let torch compute in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
