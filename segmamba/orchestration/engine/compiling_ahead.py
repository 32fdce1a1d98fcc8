"""Compiling the graphs of a study in processes of their own, beside the start of Ray and MLflow."""

from __future__ import annotations

import time
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.orchestration.engine.compile_choice import CompileChoice
from segmamba.orchestration.engine.gpu_processes import process_on_gpu
from segmamba.screen import clock

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.orchestration.engine.machine import Machine
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.training.compiler_cache import CompilerCache

CORES_TO_COMPILE = 4
"""Cores with which the compiler makes a graph about as fast as with more."""


class StudyGraphs:
    """The graphs that the trials of a study share.

    Use as a context manager: within its block those that the compiler lacks are compiled, and its
    end stops what is not done.

    Args:
        choice: Whether the trials are compiled, and which graphs the compiler lacks.
        machine: Where: this machine, or the nodes of the connected cluster.
        cache: The compiler's cache.
    """

    def __init__(self, choice: CompileChoice, machine: Machine, cache: CompilerCache) -> None:
        self.choice = choice
        self._machine, self._cache = machine, cache
        self._open = ExitStack()
        self._jobs: list[Future[None]] = []

    def __enter__(self) -> StudyGraphs:
        if self.choice.missing:
            start = self._on_nodes if self._machine.nodes else self._here
            start(str(self._cache.folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def drop(self) -> None:
        """Stop what is not done: the trials run eager, and need the GPUs themselves."""
        self._jobs = []
        self._open.close()

    def settled(self, progress: ProgressDisplay) -> bool:
        """Wait until the graphs are compiled.

        Args:
            progress: Shows that it takes a while, and what failed.

        Returns:
            Whether the compiler has made them all. Where it has not, the choice is eager from here
            on for all trials: arms that are compared run the same way.
        """
        jobs, self._jobs = self._jobs, []
        if not jobs:
            return True
        began, count = time.monotonic(), len(jobs)
        if not all(job.done() for job in jobs):
            progress.say(
                f"compile  {count} network{'s' * (count > 1)} new to the compiler: takes one to "
                "two minutes, and is kept for later studies"
            )
        errors = [error for job in jobs if (error := job.exception())]
        self._open.close()  # the processes hold memory of the GPUs
        if not errors:
            progress.say(f"compile  done, after {clock(time.monotonic() - began)} of waiting")
            return True
        reason = " ".join(f"{type(errors[0]).__name__}: {errors[0]}".split())[:200]
        self.choice = CompileChoice(compile="never", reason=f"eager: compiling failed ({reason})")
        progress.say(f"compile  failed, so that all trials run eager: {reason}")
        return False

    def _here(self, folder: str) -> None:
        cores, gpus = self._machine.cores, self._machine.gpus
        configs = self.choice.missing
        at_once = min(len(configs), max(gpus, cores // CORES_TO_COMPILE))
        pools = [process_on_gpu(slot % gpus) for slot in range(at_once)]
        for pool in pools:
            self._open.callback(_stop, pool)
        for number, config in enumerate(configs):
            pool = pools[number % at_once]
            self._jobs.append(pool.submit(compile_here, config, folder, cores // at_once))

    def _on_nodes(self, folder: str) -> None:
        import ray

        remote = ray.remote(num_cpus=1, num_gpus=1, max_calls=1, max_retries=0)(compile_here)
        for config in self.choice.missing:
            task = remote.remote(config, folder, CORES_TO_COMPILE)
            self._open.callback(ray.cancel, task)
            self._jobs.append(task.future())


def compile_here(config: Config, folder: str, threads: int) -> None:
    """Compile a graph in this process, for the device that it sees.

    Args:
        config: The configuration of a trial with the graph.
        folder: The compiler's cache.
        threads: Processes that the compiler may start.
    """
    from segmamba.device import choose_device
    from segmamba.training.compiler_cache import CompilerCache

    CompilerCache(Path(folder)).use(threads)
    from segmamba.training.compile_ahead import compile_ahead

    compile_ahead(config, choose_device())


def _stop(pool: ProcessPoolExecutor) -> None:
    """End a pool and what it computes."""
    processes: dict[int, Any] = dict(pool._processes or {})
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes.values():
        process.terminate()
    pool.shutdown(wait=True)
