"""Getting batches onto the device without waiting.

The device does not wait for a batch that is ready, and the program does not wait for the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from segmamba.data.loader import Batch

SLOTS = 2  # batches on the device: one in use, one on its way


class DeviceFeed:
    """Iterates over batches whose image (float32) and label (uint8) lie on the device.

    On a GPU the next batch is copied while this one is used. The program gets at most two batches
    ahead of the GPU, so that page-locked memory stays bounded.

    Args:
        stream: Batches in host memory; page-locked where the device is a GPU.
        device: Where the batches go.
    """

    def __init__(self, stream: Iterator[Batch], device: torch.device) -> None:
        self._stream, self._device = stream, device
        self._on_gpu = device.type == "cuda"
        self._waits_s: list[float] = []
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._copies: torch.cuda.Stream | None = None
        self._slots: list[_Slot] = []
        self._ahead: tuple[Batch, _Slot] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self._next_on_gpu() if self._on_gpu else self._next_on_cpu()

    def waited_s(self) -> float:
        """Time in which the device had nothing to do because its batch was not there.

        On a GPU this call waits until all that is queued is done.

        Returns:
            Seconds since the last call.
        """
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            seconds = sum(finished.elapsed_time(ready) for finished, ready in self._idle) / 1e3
        else:
            seconds = sum(self._waits_s)
        self._waits_s, self._idle = [], []
        return seconds

    def _next_on_cpu(self) -> Batch:
        started = time.perf_counter()
        batch = next(self._stream)
        self._waits_s.append(time.perf_counter() - started)
        return replace(
            batch, image=batch.image.to(self._device).float(), label=batch.label.to(self._device)
        )

    def _next_on_gpu(self) -> Batch:
        compute = torch.cuda.current_stream(self._device)
        finished, ready = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        finished.record(compute)  # all work on the last batch is queued before this
        if self._copies is None or not self._slots:
            first = next(self._stream)
            self._copies = torch.cuda.Stream(self._device)
            self._slots = [
                _Slot.like(first, self._device, filled_by=self._copies, emptied_by=compute)
                for _ in range(SLOTS)
            ]
            self._copy(first, self._copies)
        if self._ahead is None:
            raise StopIteration
        batch, slot = self._ahead
        self._ahead = None
        if (following := next(self._stream, None)) is not None:
            self._copy(following, self._copies)
        compute.wait_event(slot.filled)
        ready.record(compute)
        self._idle.append((finished, ready))
        batch = replace(batch, image=slot.image.float(), label=slot.label.clone())
        slot.emptied.record(compute)
        return batch

    def _copy(self, batch: Batch, copies: torch.cuda.Stream) -> None:
        """Start the copy of a batch into the slot that was used longest ago."""
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.emptied.synchronize()  # waits here for a GPU that is far behind
        with torch.cuda.stream(copies):
            slot.image.copy_(batch.image, non_blocking=True)
            slot.label.copy_(batch.label, non_blocking=True)
            slot.filled.record(copies)
        self._ahead = batch, slot


@dataclass(frozen=True)
class _Slot:
    """Room for a batch on the GPU."""

    image: torch.Tensor
    label: torch.Tensor
    filled: torch.cuda.Event
    """The slot may be read after it."""
    emptied: torch.cuda.Event
    """The slot may be written after it."""

    @classmethod
    def like(
        cls,
        batch: Batch,
        device: torch.device,
        *,
        filled_by: torch.cuda.Stream,
        emptied_by: torch.cuda.Stream,
    ) -> _Slot:
        with torch.cuda.stream(filled_by):
            image, label = (torch.empty_like(t, device=device) for t in (batch.image, batch.label))
        for tensor in (image, label):
            # The memory must not be given away while either stream uses it.
            tensor.record_stream(emptied_by)
        return cls(image, label, torch.cuda.Event(), torch.cuda.Event())


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy a NumPy array to the device without stopping the program.

    A GPU copies from page-locked memory when its turn comes. From ordinary memory every copy would
    stop the program until the GPU has done all that is queued.

    Args:
        array: Any shape and number type.
        device: Where the tensor goes.

    Returns:
        A tensor of the same shape; floating-point values are float32.
    """
    tensor = torch.as_tensor(array)
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
