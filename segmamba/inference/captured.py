"""Forward passes of one shape, captured as a CUDA graph and replayed.

Run eagerly, a forward pass is some hundred launches from Python, and a busy host launches more
slowly than the GPU computes. A graph is one launch. The same kernels run on the same memory, so
that a replay gives what the captured pass gives.
"""

import contextlib
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

EAGER_PASSES = 8
"""Passes of a shape that run eagerly before it is captured: capturing takes as long as some eager
passes, and what is predicted once does not earn it back."""
MOST_WAITS = 3
"""Passes that were seen to wait for the GPU after which a shape runs eagerly for good. It may have
been another thread that waited, but hardly each time."""


class Passes(Protocol):
    """What a `Member` asks of `Captured` and `Eager`."""

    def run(self, function: Function, x: Tensor, kind: Hashable) -> Tensor:
        """Return function(x)."""

    def forget(self) -> None:
        """Free what is kept from one pass to the next."""


def passes_on(device: torch.device, eager_passes: int) -> Passes:
    """Return `Captured` for a GPU, and `Eager` for a CPU.

    Args:
        device: Where the passes run.
        eager_passes: The passes of a shape that run eagerly before it is captured.
    """
    return Captured(device, eager_passes) if device.type == "cuda" else Eager()


class Eager:
    """Calls the function."""

    def run(self, function: Function, x: Tensor, kind: Hashable) -> Tensor:
        """Return function(x)."""
        return function(x)

    def forget(self) -> None:
        """Do nothing: nothing is kept."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """A captured pass, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    source: Tensor
    result: Tensor

    def replay(self, x: Tensor) -> Tensor:
        self.source.copy_(x)
        self.graph.replay()
        return self.result.clone()


WAITED = "called a synchronizing CUDA operation"
"""How torch begins its warning of a call that waits for the GPU."""

_LOCK = threading.Lock()
"""Held while a graph is captured or launched, since all graphs of a device share their memory."""
_ALIVE: dict[torch.device, "weakref.WeakSet[_Recording]"] = {}
"""The recordings of each device."""
_UNFINISHED: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture a call has broken off. torch may go on asking them."""


class Captured:
    """Captures a function's passes on a GPU, one graph for each kind and shape of its input.

    The first passes of a shape run eagerly: they search cuDNN's kernels and load Triton's, which no
    capture can do. The next is watched. A function that waits for the GPU, as another package's
    network may, cannot be captured, and runs eagerly for good.

    Graphs are launched in the default stream alone, one after the other, and all of a device share
    their memory: an ensemble takes as much as its largest member. It is free once no `Captured` of
    the device has a graph.

    Args:
        device: The GPU.
        eager_passes: The passes of a shape that run eagerly before one is watched; at least 1.
    """

    def __init__(self, device: torch.device, eager_passes: int) -> None:
        number = torch.cuda.current_device() if device.index is None else device.index
        self._device = torch.device("cuda", number)
        self._eager_passes = eager_passes
        self._done: Counter[Hashable] = Counter()
        self._waits: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording | None] = {}

    def run(self, function: Function, x: Tensor, kind: Hashable) -> Tensor:
        """Return function(x), replayed where its shape has been captured.

        Args:
            function: From one tensor to another, by the same kernels for the same shape. Whatever
                else it reads stays where it is and may change in place.
            x: On the GPU.
            kind: What else tells functions apart, for example their precision.
        """
        if torch.cuda.current_stream(self._device) != torch.cuda.default_stream(self._device):
            return function(x)
        key = (kind, x.shape, x.dtype)
        self._done[key] += 1
        if self._done[key] <= self._eager_passes:
            return function(x)
        with _LOCK:
            if key not in self._recordings:
                return self._captured_after(function, x, key)
            if recording := self._recordings[key]:
                return recording.replay(x)
        return function(x)

    def _captured_after(self, function: Function, x: Tensor, key: Hashable) -> Tensor:
        """Return function(x), run eagerly and watched, and capture it where it can be."""
        result, waited = _watched(function, x)
        self._waits[key] += waited
        if not waited:
            self._recordings[key] = _record(function, x, self._device)
        elif self._waits[key] == MOST_WAITS:
            self._recordings[key] = None
        return result

    def forget(self) -> None:
        """Free the graphs; shapes are counted, and captured, anew."""
        for kept in (self._recordings, self._done, self._waits):
            kept.clear()


def _watched(function: Function, x: Tensor) -> tuple[Tensor, bool]:
    """Return function(x), and whether anything waited for the GPU meanwhile."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = function(x)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return result, any(WAITED in str(warning.message) for warning in seen)


def _record(function: Function, x: Tensor, device: torch.device) -> _Recording | None:
    """Capture function(x), or return None where that is impossible.

    Other threads may use the GPU meanwhile.
    """
    alive = _ALIVE.setdefault(device, weakref.WeakSet())
    sharing = list(alive)  # it holds them while their memory is asked for
    pool = sharing[0].graph.pool() if sharing else torch.cuda.graph_pool_handle()
    source, graph, ended = x.clone(), torch.cuda.CUDAGraph(), False
    torch.cuda.synchronize(device)
    # cuBLAS would write to a workspace of other graphs, which goes with them.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()  # a graph takes its memory from the driver
    try:
        with torch.cuda.device(device), torch.cuda.stream(_capturing_stream(device)):
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                result = function(source)
            finally:
                graph.capture_end()  # it raises where a call has broken the capture off
                ended = True
    except Exception:  # a fault of the function's own comes again in the eager pass that follows
        if not ended:
            _break_off(graph, pool, device)
        return None
    finally:
        torch._C._cuda_clearCublasWorkspaces()
    recording = _Recording(graph, source, result)
    alive.add(recording)
    return recording


def _break_off(graph: torch.cuda.CUDAGraph, pool: Any, device: torch.device) -> None:
    """End for torch's allocator and its random numbers a capture that CUDA has ended.

    Else the one would give no cached memory back to the driver any more, and the other would refuse
    to count outside of the capture.
    """
    _UNFINISHED.append(graph)
    generator = torch.cuda.default_generators[device.index]
    generator.graphsafe_set_state(generator.clone_state())
    with contextlib.suppress(RuntimeError):  # it has ended it, or never begun
        torch._C._cuda_endAllocateToPool(device.index, pool)
        torch._C._cuda_releasePool(device.index, pool)


@cache
def _capturing_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream in which graphs are captured: one for all that share memory."""
    return torch.cuda.Stream(device)
