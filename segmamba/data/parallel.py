"""One function over many cases, in parallel processes where that pays.

A process that the system kills costs the result of its case and no more.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

from segmamba.errors import Stopped, UserError

SERIAL_BYTES = 32 * 2**20  # below this, starting worker processes costs more than it saves

Progress = Callable[[int, int], None]
"""Called with (cases done, cases in all) after each case."""


class HasFiles(Protocol):
    """What `map_cases` needs of a case: the files whose sizes say how much work it is."""

    @property
    def files(self) -> list[Path]: ...


CaseT = TypeVar("CaseT", bound=HasFiles)
ResultT = TypeVar("ResultT")


def no_progress(done: int, total: int) -> None:
    """The null object of `Progress`."""


def map_cases(
    function: Callable[[CaseT], ResultT],
    cases: Sequence[CaseT],
    *,
    lost: Callable[[CaseT], ResultT],
    workers: int = 0,
    progress: Progress = no_progress,
    serial_bytes: int | None = None,
) -> list[ResultT]:
    """Apply a function to each case.

    Args:
        function: An importable function, or a partial of one. It must not raise on bad data; what
            it raises otherwise names the case.
        cases: What the function is applied to.
        lost: Gives the result of a case whose process was killed.
        workers: The largest number of processes. 0 is one for each core, 1 is this process alone.
        progress: Called with (cases done, cases in all) after each case.
        serial_bytes: Size of all files, in bytes, below which this process does all the work.
            None is `SERIAL_BYTES`.

    Returns:
        The results in the order of `cases`.
    """
    function = functools.partial(_named, function)
    workers = workers or os.cpu_count() or 1
    parallel_from = SERIAL_BYTES if serial_bytes is None else serial_bytes
    if workers == 1 or _size_bytes(cases) < parallel_from:
        return _map_here(function, cases, progress)
    results: dict[int, ResultT] = {}
    context = get_context("spawn")
    try:
        # A process that dies while another one is being started would leave the pool waiting for
        # ever: none begins before all are there.
        all_there = context.Event()
        made = ProcessPoolExecutor(min(len(cases), workers), context, initializer=all_there.wait)
    except OSError:  # a full /dev/shm takes no semaphore
        return _map_here(function, cases, progress)
    with made as pool:
        jobs = {pool.submit(function, case): place for place, case in enumerate(cases)}
        all_there.set()
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                place = jobs[job]
                results[place] = _result(job, cases[place], lost)
                progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [results[place] for place in range(len(cases))]


def _named(function: Callable[[CaseT], ResultT], case: CaseT) -> ResultT:
    """Apply the function; an exception that it was not to raise says at which case it did."""
    try:
        return function(case)
    except (UserError, Stopped):
        raise
    except Exception as error:
        line = f"{type(error).__name__}: {error}"
        raise RuntimeError(f"{getattr(case, 'id', case)}: {line}") from error


def _size_bytes(cases: Sequence[HasFiles]) -> int:
    return sum(path.stat().st_size for case in cases for path in case.files if path.is_file())


def _map_here(
    function: Callable[[CaseT], ResultT], cases: Sequence[CaseT], progress: Progress
) -> list[ResultT]:
    results = []
    for case in cases:
        results.append(function(case))
        progress(len(results), len(cases))
    return results


def _result(job: Future[ResultT], case: CaseT, lost: Callable[[CaseT], ResultT]) -> ResultT:
    try:
        return job.result()
    except BrokenProcessPool:
        return lost(case)
