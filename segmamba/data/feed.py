"""Getting data onto the device without making anybody wait: neither the device for a batch nor the program for the device."""

import time
from dataclasses import dataclass, replace

import torch

SLOTS = 2  # batches on the device: one in use, one on its way


class DeviceFeed:
    """Batches as they come, with image (float32) and label on the device. On a GPU the next one is copied while this one is used.

    The program gets at most two batches ahead of the GPU, so that page-locked memory stays bounded.
    """

    def __init__(self, stream, device):
        self._stream, self._device = stream, device
        self._on_gpu = device.type == "cuda"
        self._waits = []
        self._slots, self._ahead = None, None

    def __iter__(self):
        return self

    def __next__(self):
        return self._next_on_gpu() if self._on_gpu else self._next_on_cpu()

    def waited_s(self):
        """Seconds, since the last call, in which the device had nothing to do because its batch was not there. Waits for the device."""
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
            seconds = sum(done.elapsed_time(there) for done, there in self._waits) / 1e3
        else:
            seconds = sum(self._waits)
        self._waits = []
        return seconds

    def _next_on_cpu(self):
        started = time.perf_counter()
        batch = next(self._stream)
        self._waits.append(time.perf_counter() - started)
        return replace(
            batch, image=batch.image.to(self._device).float(), label=batch.label.to(self._device)
        )

    def _next_on_gpu(self):
        compute = torch.cuda.current_stream(self._device)
        done, there = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        done.record(compute)  # all that the last batch was needed for is queued before this
        if self._slots is None:
            first = next(self._stream)
            self._copies = torch.cuda.Stream(self._device)
            self._slots = [
                _Slot.like(first, self._device, filled_by=self._copies, emptied_by=compute)
                for _ in range(SLOTS)
            ]
            self._copy(first)
        if self._ahead is None:
            raise StopIteration
        batch, slot = self._ahead
        self._ahead = None
        if (following := next(self._stream, None)) is not None:
            self._copy(following)
        compute.wait_event(slot.filled)
        there.record(compute)
        self._waits.append((done, there))
        batch = replace(batch, image=slot.image.float(), label=slot.label.clone())
        slot.emptied.record(compute)
        return batch

    def _copy(self, batch):
        slot = self._slots.pop(0)
        self._slots.append(slot)
        slot.emptied.synchronize()  # a GPU that is far behind is waited for here
        with torch.cuda.stream(self._copies):
            slot.image.copy_(batch.image, non_blocking=True)
            slot.label.copy_(batch.label, non_blocking=True)
            slot.filled.record(self._copies)
        self._ahead = batch, slot


@dataclass(frozen=True)
class _Slot:
    """Room for a batch on the GPU. filled, emptied: events after which it may be read and written again."""

    image: torch.Tensor
    label: torch.Tensor
    filled: torch.cuda.Event
    emptied: torch.cuda.Event

    @classmethod
    def like(cls, batch, device, *, filled_by, emptied_by):
        with torch.cuda.stream(filled_by):
            image, label = (torch.empty_like(t, device=device) for t in (batch.image, batch.label))
        for tensor in (image, label):
            tensor.record_stream(
                emptied_by
            )  # so that the memory is not given away while either stream uses it
        return cls(image, label, torch.cuda.Event(), torch.cuda.Event())


def sent(array, device):
    """A NumPy array (float64 as float32) on the device. A GPU copies it when its turn comes: from ordinary memory every copy would stop the
    program until the GPU has done all that is queued."""
    tensor = torch.as_tensor(array)
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
