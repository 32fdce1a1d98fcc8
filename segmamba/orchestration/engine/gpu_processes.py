"""Processes of this machine that see one of its GPUs, as trials do."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from segmamba.processes import end_with_parent


def process_on_gpu(gpu: int) -> ProcessPoolExecutor:
    """A process that has imported nothing yet and ends with this one.

    Args:
        gpu: The number of the GPU that it sees, among those that this process sees; without any,
            the number does not matter.
    """
    return ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_see, initargs=(gpu,)
    )


def _see(gpu: int) -> None:
    """Let this process see one GPU of this machine alone, as a trial does."""
    end_with_parent()  # a pool's worker would wait for work for ever
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(gpu + 1)] if seen is None else seen.split(",")
    if gpu < len(names):  # otherwise the user hides what there is
        os.environ["CUDA_VISIBLE_DEVICES"] = names[gpu]
