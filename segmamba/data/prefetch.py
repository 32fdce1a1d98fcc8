"""Items of a data set by their numbers, in order, made ahead by processes or by threads.

Processes hand items over in shared memory. Where there is too little of it, and where one of them
is killed, threads of this process make the items instead. Whoever makes an item, it is the same.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_start_method
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset

PREFETCH = 2  # items that a worker has ready beyond the one it is filling
SHARED_MEMORY = Path("/dev/shm")
SPARE_BYTES = 4 * 2**20
"""Of shared memory, for the queues and semaphores of the workers."""
GONE = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|killed by signal)")
INSTEAD = "threads of one process read the patches instead, which changes no result"


@runtime_checkable
class Pinnable(Protocol):
    """What can be brought into page-locked memory."""

    def pin_memory(self) -> Pinnable: ...


ItemT = TypeVar("ItemT", bound=Pinnable)
Say = Callable[[str], object]
"""Is given a line for whoever started the run."""


def unsaid(line: str) -> None:
    """The null object of `Say`."""


def prefetched(
    dataset: Dataset[ItemT],
    numbers: range,
    *,
    workers: int,
    item_bytes: int,
    pin_memory: bool,
    say: Say = unsaid,
) -> Generator[ItemT, None, None]:
    """Make items ahead of their use. Closing the generator ends its workers.

    Args:
        dataset: Gives the item of a number, which depends on nothing else.
        numbers: Those of the items, in order.
        workers: How many processes make them; 0 is this one, when an item is asked for.
        item_bytes: Of an item in shared memory.
        pin_memory: Put items into page-locked memory, for a GPU.
        say: Is given a line where threads make the items instead.

    Yields:
        The items of `numbers`.
    """
    if not workers:
        yield from iter(_loader(dataset, numbers, 0, pin_memory=pin_memory))
        return
    done, note = 0, note_on_shared_memory(workers, item_bytes)
    if not note:
        try:
            for item in _by_processes(dataset, numbers, workers, pin_memory=pin_memory):
                yield item
                done += 1
            return
        except (RuntimeError, OSError, EOFError) as error:
            killed = _killed(error)
            if not killed:
                raise
            note = f"data.workers = {workers}: {killed}; {INSTEAD}"
    say(note)
    yield from _by_threads(dataset, numbers[done:], workers, pin_memory=pin_memory)


def note_on_shared_memory(workers: int, item_bytes: int, *, streams: int = 1) -> str:
    """Say where shared memory does not do for what the workers hold.

    Where it is full the kernel kills the worker with SIGBUS. A container has 64 MiB by default.

    Args:
        workers: The processes of a stream.
        item_bytes: Of an item in shared memory.
        streams: How many streams there are at once.

    Returns:
        The line; empty where it does.
    """
    needed = streams * workers * (PREFETCH + 1) * item_bytes
    if not needed or not SHARED_MEMORY.exists():
        return ""
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed + SPARE_BYTES <= free:
        return ""
    return (
        f"data.workers = {workers}: their batches take {needed / 2**20:.0f} MiB of shared memory "
        f"and {SHARED_MEMORY} has {free / 2**20:.0f} MiB free (docker run --shm-size=2g gives "
        f"more); {INSTEAD}"
    )


def _killed(error: Exception) -> str:
    """What became of the processes; empty where the error is another one."""
    if re.search(r"unable to .*shared memory|No space left on device", str(error)):
        return f"{SHARED_MEMORY} is full"
    if not GONE.search(str(error)) and not isinstance(error, (ConnectionError, EOFError)):
        return ""
    why = f"{SHARED_MEMORY} is full" if "Bus error" in str(error) else "memory?"
    return f"one of the processes was killed ({why})"


def _loader(
    dataset: Dataset[ItemT], numbers: range, workers: int, *, pin_memory: bool
) -> DataLoader[ItemT]:
    # A fork server starts the workers itself, so their parent is another process than this one.
    forked = get_start_method() != "forkserver"
    return DataLoader(
        dataset,
        sampler=numbers,
        batch_size=None,
        # Of its own, or starting workers would move the program's generator on.
        generator=torch.Generator().manual_seed(0),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=partial(_end_without, os.getpid()) if forked else None,
    )


def _by_processes(
    dataset: Dataset[ItemT], numbers: range, workers: int, *, pin_memory: bool
) -> Iterator[ItemT]:
    with _interrupts_held_back(), _deaths_left_to_the_stream():
        stream = iter(_loader(dataset, numbers, workers, pin_memory=pin_memory))
    # Only this generator's frame holds the iterator: when the frame goes, the workers end.
    yield from stream


def _by_threads(
    dataset: Dataset[ItemT], numbers: range, workers: int, *, pin_memory: bool
) -> Iterator[ItemT]:
    def make(number: int) -> ItemT:
        item = dataset[number]
        return item.pin_memory() if pin_memory else item  # type: ignore[return-value]  # of its own kind

    pool, waiting = ThreadPoolExecutor(workers, "patches"), deque[Future[ItemT]]()
    try:
        for number in numbers:
            waiting.append(pool.submit(make, number))
            if len(waiting) > workers * PREFETCH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _end_without(parent: int, worker: int) -> None:
    """End this worker once its parent has ended.

    torch's own watch learns who the parent is too late where that is killed while workers start.
    Such a worker would wait for ever, with its memory.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold Ctrl-C back while workers start.

    Ctrl-C reaches every process of the terminal. The parent ends its workers, which otherwise die
    before it, with tracebacks. A worker inherits the block from its first instruction on. The
    parent gets interrupts again when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _deaths_left_to_the_stream() -> Iterator[None]:
    """Keep torch from raising a worker's death wherever the program is, in the midst of a step.

    The stream notices it, too, within seconds, when it waits for an item.
    """
    if threading.current_thread() is not threading.main_thread():  # torch sets no handler there
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
