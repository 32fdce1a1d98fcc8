"""Patches from the cache as a stream of batches, in the order that `sampling.draw` gives.

A batch is copied once, straight from the memory maps into its tensors. Workers hold no volume: what
they read stays in the page cache, which all workers of all trials on a machine share.

Legend: B batch, C modalities, (D, H, W) = NIfTI (x, y, z).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_start_method
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from segmamba.data.labels import MODALITIES
from segmamba.data.sampling import Draw, PatchId, draw, draw_anywhere, patch_slices
from segmamba.errors import UserError

if TYPE_CHECKING:
    from segmamba.config import Config, TrainConfig
    from segmamba.data.prepared_case import PreparedCase

PREFETCH = 2  # batches that a worker has ready beyond the one it is filling
SHARED_MEMORY = Path("/dev/shm")
WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")
"""torch's words for it; the error of a batch that cannot be read speaks of a worker process."""
MOST_DEATHS = 3
"""Deaths of workers without a batch between them after which the stream ends with the error."""
BYTES_PER_VOXEL = 2 * len(MODALITIES) + 1  # float16 images and a uint8 label


@dataclass(frozen=True)
class Batch:
    """Patches with what says where they come from.

    What has one value per patch is in NumPy. A tensor would cost a file descriptor and a mapping
    on its way from a worker.
    """

    image: torch.Tensor
    """(B, C, D, H, W), float16 from the loader and float32 on the device, z-scored."""
    label: torch.Tensor
    """uint8 (B, D, H, W), internal classes."""
    epoch: np.ndarray
    """int (B,), from 1."""
    index: np.ndarray
    """int (B,), the patch's number within its epoch, from 0."""
    on_tumour: np.ndarray
    """bool (B,), whether the centre was drawn from the tumour."""
    cases: list[str]
    """Case ids."""

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the DataLoader's pinning thread calls it."""
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory())


class Batches(Dataset[Batch]):
    """Maps the number of a batch within the run to the batch.

    Patch n of the run is patch n % per_epoch of epoch n // per_epoch + 1.

    Args:
        cases: The cases to draw from.
        config: Gives the seed, the batch size and how patches are drawn.
        per_epoch: Patches in an epoch.
        chances: (cases,), the probability of each case; None draws them equally often.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        config: Config,
        per_epoch: int,
        chances: np.ndarray | None = None,
    ) -> None:
        self.cases, self.chances = cases, chances
        self.seed, self.config = config.seed, config.data
        self.batch_size, self.per_epoch = config.train.batch_size, per_epoch

    def __getitem__(self, number: int) -> Batch:
        first = number * self.batch_size
        patches = [
            PatchId(self.seed, n // self.per_epoch + 1, n % self.per_epoch, self.per_epoch)
            for n in range(first, first + self.batch_size)
        ]
        image = _empty((self.batch_size, len(MODALITIES), *self.config.patch_size), torch.float16)
        label = _empty((self.batch_size, *self.config.patch_size), torch.uint8)
        draws = [self._draw(patch) for patch in patches]
        for chosen, image_row, label_row in zip(draws, image.numpy(), label.numpy(), strict=True):
            case = self.cases[chosen.case]
            window = patch_slices(case.shape, chosen.centre, self.config.patch_size)
            all_channels = (slice(None), *window)
            _fill(image_row, case.image()[all_channels])
            _fill(label_row, self._label(case, window))
        return Batch(
            image,
            label,
            epoch=np.array([patch.epoch for patch in patches]),
            index=np.array([patch.index for patch in patches]),
            on_tumour=np.array([chosen.on_tumour for chosen in draws]),
            cases=[self.cases[chosen.case].id for chosen in draws],
        )

    def _draw(self, patch: PatchId) -> Draw:
        return draw(
            self.cases,
            patch,
            self.config.tumour_centre_share,
            balance_classes=self.config.balance_classes,
            chances=self.chances,
        )

    def _label(self, case: PreparedCase, window: tuple[slice, ...]) -> np.ndarray:
        return case.label()[window]


class UnlabelledBatches(Batches):
    """Patches from anywhere whose labels are all 0. Labels that the cases may have are not read."""

    def _draw(self, patch: PatchId) -> Draw:
        return draw_anywhere(self.cases, patch, self.config.patch_size)

    def _label(self, case: PreparedCase, window: tuple[slice, ...]) -> np.ndarray:
        shape = [min(side.stop, n) - side.start for side, n in zip(window, case.shape, strict=True)]
        return np.zeros(shape, np.uint8)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor to fill.

    In a worker it lies in shared memory from the start, as that of torch's own collation does, and
    is not copied on its way to the training process.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")
    tensor = torch.empty(0, dtype=dtype)
    return tensor.set_(storage, 0, shape)  # type: ignore[call-overload]  # strides are optional


def _fill(target: np.ndarray, patch: np.ndarray) -> None:
    """Copy `patch` to the front of the last three axes of `target`, with zeros behind it."""
    if patch.shape != target.shape:
        target[...] = 0
    x, y, z = patch.shape[-3:]
    target[..., :x, :y, :z] = patch


def patches_per_epoch(train: TrainConfig) -> int:
    """How many patches an epoch draws.

    Args:
        train: Gives the optimiser steps, the accumulation and the batch size.

    Returns:
        The number of patches.
    """
    return train.steps_per_epoch * train.accumulation * train.batch_size


def batches(
    cases: Sequence[PreparedCase],
    config: Config,
    *,
    first_epoch: int,
    pin_memory: bool,
    last_epoch: int | None = None,
    chances: np.ndarray | None = None,
) -> Generator[Batch, None, None]:
    """Stream the batches of a run, prefetched. Closing the generator ends its workers.

    Args:
        cases: The cases to draw from.
        config: Gives the seed, the batch size, the number of workers and how patches are drawn.
        first_epoch: The stream begins with this epoch, from 1.
        pin_memory: Put batches into page-locked memory, for a GPU.
        last_epoch: The stream ends with this epoch. None is the last epoch of the run.
        chances: (cases,), the probability of each case, as in `sampling.draw`.

    Yields:
        Batches in the order of the run.

    Raises:
        UserError: Shared memory cannot hold what the workers prefetch.
        RuntimeError: Workers die again and again. After a single death new ones go on.
    """
    dataset = Batches(cases, config, patches_per_epoch(config.train), chances)
    epochs = range(first_epoch, (last_epoch or config.train.epochs) + 1)
    return _stream(dataset, config, epochs, pin_memory=pin_memory)


def unlabelled_batches(
    cases: Sequence[PreparedCase], config: Config, *, first_epoch: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Stream batches of patches from anywhere, without labels.

    Args:
        cases: The cases to draw from.
        config: As in `batches`.
        first_epoch: The stream begins with this epoch, from 1.
        pin_memory: Put batches into page-locked memory, for a GPU.

    Yields:
        Batches to the end of the run, their labels all 0.

    Raises:
        UserError: Shared memory cannot hold what the workers prefetch.
    """
    dataset = UnlabelledBatches(cases, config, patches_per_epoch(config.train))
    epochs = range(first_epoch, config.train.epochs + 1)
    return _stream(dataset, config, epochs, pin_memory=pin_memory)


def _stream(
    dataset: Batches, config: Config, epochs: range, *, pin_memory: bool
) -> Generator[Batch, None, None]:
    train = config.train
    _check_shared_memory(config.data.workers, train.batch_size, config.data.patch_size)
    numbers = range(
        (epochs.start - 1) * dataset.per_epoch // train.batch_size,
        (epochs.stop - 1) * dataset.per_epoch // train.batch_size,
    )
    deaths = 0
    while True:
        try:
            for batch in _loaded(dataset, config, numbers, pin_memory=pin_memory):
                numbers, deaths = numbers[1:], 0
                yield batch
            return
        except RuntimeError as error:
            deaths += 1
            if not WORKER_DIED.search(str(error)) or deaths == MOST_DEATHS:
                raise
            warnings.warn(
                "a process that reads patches has died, perhaps for want of memory; new ones go on "
                "from the same patch",
                stacklevel=2,
            )


def _loaded(
    dataset: Batches, config: Config, numbers: range, *, pin_memory: bool
) -> Generator[Batch, None, None]:
    """Yield the batches of these numbers, read by workers of their own."""
    workers = config.data.workers
    # A fork server starts the workers itself, so their parent is another process than this one.
    end_with_parent = (
        None if get_start_method() == "forkserver" else partial(_end_without, os.getpid())
    )
    loader = DataLoader(
        dataset,
        sampler=numbers,
        batch_size=None,
        # Of its own, or starting workers would move the program's generator on.
        generator=torch.Generator().manual_seed(config.seed),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=end_with_parent,
    )
    with _interrupts_held_back(), _handler_of_child_kept():
        stream = iter(loader)  # starts the workers
    # Only this generator's frame holds the iterator: when the frame goes, the workers end.
    yield from stream


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
def _handler_of_child_kept() -> Iterator[None]:
    """Keep the handler of SIGCHLD, where torch would install its own.

    That one raises the death of a worker wherever the program is, in the middle of a step or of a
    file. Without it the death is found where the next batch is waited for, within 5 s.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _check_shared_memory(workers: int, batch_size: int, patch_size: Sequence[int]) -> None:
    """Refuse workers whose batches do not fit into /dev/shm, 64 MiB in a container by default.

    Where it is full the kernel kills the worker with SIGBUS.
    """
    if not workers or not SHARED_MEMORY.exists():
        return
    needed = workers * (PREFETCH + 1) * batch_size * math.prod(patch_size) * BYTES_PER_VOXEL
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise UserError(
            f"data.workers = {workers}: their batches take {needed / 2**20:.0f} MiB of shared "
            f"memory and {SHARED_MEMORY} has {free / 2**20:.0f} MiB free; give the container more "
            "(docker run --shm-size=2g) or --set data.workers=0"
        )
