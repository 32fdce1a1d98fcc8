"""The processes in which trials are rehearsed: of this machine, or of a node of a cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from segmamba.orchestration.engine.gpu_processes import process_on_gpu

if TYPE_CHECKING:
    import ray

    from segmamba.config import Config
    from segmamba.data.case import Case
    from segmamba.data.splits import Split
    from segmamba.orchestration.engine.machine import Node
    from segmamba.training.rehearsal import Rehearsal

STEPS = {"cpu": 2, "cuda": 40}
"""Optimiser steps that are timed on each type of device, after as many that warm up."""


class Killed(Exception):
    """The process that measured has died."""


@dataclass(frozen=True, kw_only=True)
class RehearsalTask:
    """One rehearsal, as it travels to the process that does it."""

    config: Config
    data: Split
    threads: int
    """Threads of torch."""
    compiler: str = ""
    """Folder of the compiler's cache; empty where nothing is compiled."""
    gpu: int = 0
    """Which GPU of this machine it runs on, where there are any. Ray chooses on a cluster."""
    meet: str | None = None
    """Folder where rehearsals that are to run at the same time wait for each other."""
    others: int = 0
    """How many others wait there."""


Job = TypeVar("Job")


class MeasuringProcesses(Protocol[Job]):
    """Runs rehearsals in processes of their own."""

    def start(self, slot: int, task: RehearsalTask) -> Job:
        """Begin a rehearsal.

        Args:
            slot: Rehearsals in different slots run at the same time.
            task: The rehearsal.

        Returns:
            A job for `result`.
        """

    def result(self, job: Job) -> Rehearsal:
        """Wait for the Rehearsal of a job.

        Raises:
            Killed: The process has died.
        """

    def renew(self) -> None:
        """Make sure that the next peak of memory is read from a fresh process."""

    def end(self) -> None:
        """End all processes; later rehearsals start new ones."""


class LocalMeasurement:
    """MeasuringProcesses on this machine, one process a slot."""

    def __init__(self) -> None:
        self._open, self._pools = ExitStack(), dict[tuple[int, int], ProcessPoolExecutor]()

    def start(self, slot: int, task: RehearsalTask) -> Future[Rehearsal]:
        """Begin a rehearsal; see MeasuringProcesses."""
        place = slot, task.gpu
        if place not in self._pools:
            self._pools[place] = self._open.enter_context(process_on_gpu(task.gpu))
        return self._pools[place].submit(_rehearse, time.time(), task)

    def result(self, job: Future[Rehearsal]) -> Rehearsal:
        """Wait for the Rehearsal of a job; see MeasuringProcesses."""
        try:
            return job.result()
        except BrokenProcessPool as error:
            raise Killed from error

    def renew(self) -> None:
        """End the processes on a CPU, where the peak is that of the whole process."""
        if _device() == "cpu":
            self.end()

    def end(self) -> None:
        """End all processes."""
        self._open.close()
        self._open, self._pools = ExitStack(), {}


class RemoteMeasurement:
    """MeasuringProcesses on a node of the connected cluster.

    Each process has the cores and the share of a GPU that a trial has.

    Args:
        node: The node.
        cases: The cases of all splits, where each node has a cache of its own.
        cache: The path of that cache; None where all nodes read the same files.
    """

    def __init__(self, node: Node, cases: Sequence[Case] = (), cache: str | None = None) -> None:
        self._node, self._cases, self._cache = node, cases, cache

    def start(self, slot: int, task: RehearsalTask) -> ray.ObjectRef[Rehearsal]:
        """Begin a rehearsal; see MeasuringProcesses."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share = 1 / (task.others + 1) if self._node.gpus else 0
        # max_calls: a fresh process for each rehearsal.
        remote = ray.remote(num_cpus=task.threads, num_gpus=share, max_calls=1, max_retries=0)(
            _rehearse_there
        )
        pinned = remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node.id, soft=False)
        )
        return pinned.remote(time.time(), task, self._cases, self._cache)

    def result(self, job: ray.ObjectRef[Rehearsal]) -> Rehearsal:
        """Wait for the Rehearsal of a job; see MeasuringProcesses."""
        import ray

        try:
            return ray.get(job)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise Killed from error

    def renew(self) -> None:
        """Nothing is left of a process that has measured."""

    def end(self) -> None:
        """Nothing is left of a process that has measured."""


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _rehearse(asked: float, task: RehearsalTask) -> Rehearsal:
    """Rehearse in this process.

    asked: when the rehearsal was asked for, by the wall clock; on a cluster another machine's.
    """
    from segmamba.training.compiler_cache import CompilerCache
    from segmamba.training.rehearsal import rehearse

    if task.compiler:
        CompilerCache(Path(task.compiler)).use(task.threads)
    start_s = max(0.0, time.time() - asked)
    rehearsal = rehearse(
        task.config,
        task.data,
        steps=STEPS[_device()],
        threads=task.threads,
        meet=task.meet,
        others=task.others,
    )
    return replace(rehearsal, start_s=start_s)


def _rehearse_there(
    asked: float, task: RehearsalTask, cases: Sequence[Case], cache: str | None
) -> Rehearsal:
    """Rehearse on a node, with the cases of its own cache."""
    from segmamba.orchestration.engine.caching import split_on_this_node

    began = time.monotonic()
    if cache:
        data = split_on_this_node(task.data, cases, cache, task.config.data)
        task = replace(task, data=data)
    asked += time.monotonic() - began  # a trial finds its cases there
    return _rehearse(asked, task)
