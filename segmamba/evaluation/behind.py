"""Work on the CPU for one case while the device is busy with the next ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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


@contextmanager
def drawing(device: torch.device) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Draw pictures while a GPU goes on, one after the other in a thread; on a CPU, at once.

    Args:
        device: What goes on.

    Yields:
        A function that takes what draws a picture. All are drawn when the block ends.
    """
    if device.type == "cpu":
        yield lambda draw: draw()
        return
    drawn: list[Future[None]] = []
    with ThreadPoolExecutor(1) as thread:
        yield lambda draw: drawn.append(thread.submit(draw))
    for each in drawn:
        each.result()


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
