"""Work on the CPU while the device is busy with what comes next."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def behind(
    device: torch.device, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Map items in order; on a GPU, a thread maps each while the items after it are made.

    There are as many threads as torch may use, and at most twice as many items in memory. On a CPU,
    which has nothing to do meanwhile but what the device does, the items are mapped as they come.

    Args:
        device: What makes the items.
        function: May run in several threads at once.
        items: Made by the caller's thread.

    Yields:
        function(item) for each item.
    """
    if device.type == "cpu":
        yield from map(function, items)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while waiting and (len(waiting) > 2 * threads or waiting[0].done()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Aside:
    """Does work of the CPU in a thread while a GPU goes on, one piece after the other.

    On a CPU, each piece is done at once.

    Args:
        device: What goes on.
        after: Called after each piece, by the same thread.
    """

    def __init__(self, device: torch.device, after: Callable[[], object] = lambda: None) -> None:
        self._device, self._after = device, after
        self._thread: ThreadPoolExecutor | None = None
        self._given: list[Future[None]] = []

    def do(self, work: Callable[[], object]) -> None:
        """Have `work()` called."""
        if self._device.type == "cpu":
            self._do(work)
            return
        self._thread = self._thread or ThreadPoolExecutor(1)
        self._given.append(self._thread.submit(self._do, work))

    def settle(self) -> None:
        """Wait until all is done, and end the thread; raise what the first piece failed with."""
        if self._thread:
            self._thread.shutdown()
        given, self._given, self._thread = self._given, [], None
        for each in given:
            each.result()

    def _do(self, work: Callable[[], object]) -> None:
        work()
        self._after()


def batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Take `size` items at a time; the last time those that are left."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield tuple(group)
            group = []
    if group:
        yield tuple(group)
