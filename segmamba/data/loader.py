"""Patches from the cache as a stream of batches, in the order that `sampling.draw` gives.

A batch is copied straight from the memory maps into its tensors, once. Workers hold no volume: what they read stays in the page
cache, which all workers of all trials on a machine share.
"""

import math
import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_start_method
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from segmamba.data.labels import MODALITIES
from segmamba.data.sampling import draw, draw_anywhere, patch_slices
from segmamba.errors import UserError

PREFETCH = 2  # batches that a worker has ready beyond the one it is filling
SHARED_MEMORY = Path("/dev/shm")
BYTES_PER_VOXEL = 2 * len(MODALITIES) + 1  # float16 images and a uint8 label


@dataclass(frozen=True)
class Batch:
    """image: float16 (B, 4, D, H, W); label: uint8 (B, D, H, W); the rest: one value per patch, in NumPy, where a tensor would cost a file
    descriptor and a mapping on its way from a worker."""

    image: torch.Tensor
    label: torch.Tensor
    epoch: np.ndarray
    index: np.ndarray
    on_tumour: np.ndarray
    cases: list

    def pin_memory(self):
        """The same in page-locked memory; the DataLoader's pinning thread calls it."""
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory())


class Batches(Dataset):
    """Maps a global batch number to its Batch. Patch n is index n % per_epoch of epoch n // per_epoch + 1.

    chances: a probability for each case to be drawn; None draws them equally often.
    """

    def __init__(self, cases, config, per_epoch, chances=None):
        self.cases, self.seed, self.config, self.per_epoch, self.chances = (
            cases,
            config.seed,
            config.data,
            per_epoch,
            chances,
        )
        self.batch_size = config.train.batch_size

    def __getitem__(self, number):
        first = number * self.batch_size
        places = [
            (n // self.per_epoch + 1, n % self.per_epoch)
            for n in range(first, first + self.batch_size)
        ]
        image = _empty((self.batch_size, len(MODALITIES), *self.config.patch_size), torch.float16)
        label = _empty((self.batch_size, *self.config.patch_size), torch.uint8)
        draws = [self._draw(*place) for place in places]
        for chosen, image_row, label_row in zip(draws, image.numpy(), label.numpy(), strict=True):
            case = self.cases[chosen.case]
            window = patch_slices(case.shape, chosen.centre, self.config.patch_size)
            _fill(image_row, case.image()[(slice(None), *window)])
            _fill(label_row, self._label(case, window))
        epoch, index = np.array(places).T
        on_tumour = np.array([chosen.on_tumour for chosen in draws])
        return Batch(
            image, label, epoch, index, on_tumour, [self.cases[chosen.case].id for chosen in draws]
        )

    def _draw(self, epoch, index):
        share, balance = self.config.tumour_centre_share, self.config.balance_classes
        return draw(
            self.cases,
            self.seed,
            epoch,
            index,
            self.per_epoch,
            share,
            balance_classes=balance,
            chances=self.chances,
        )

    def _label(self, case, window):
        return case.label()[window]


class UnlabelledBatches(Batches):
    """Patches from anywhere, their labels all 0: whatever labels the cases have are not read."""

    def _draw(self, epoch, index):
        return draw_anywhere(
            self.cases, self.seed, epoch, index, self.per_epoch, self.config.patch_size
        )

    def _label(self, case, window):
        return np.zeros(
            [min(side.stop, n) - side.start for side, n in zip(window, case.shape, strict=True)],
            np.uint8,
        )


def _empty(shape, dtype):
    """A tensor to fill; in a worker it lies in shared memory from the start, as torch's own collation has it, and is not copied on its way."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)


def _fill(target, patch):
    """`patch` copied to the front of the last three axes of `target`, zeros behind it."""
    if patch.shape != target.shape:
        target[...] = 0
    target[(..., *(slice(n) for n in patch.shape[-3:]))] = patch


def patches_per_epoch(train):
    """Of a TrainConfig."""
    return train.steps_per_epoch * train.accumulation * train.batch_size


def batches(cases, config, *, first_epoch, pin_memory, last_epoch=None, chances=None):
    """Batches from the start of `first_epoch` to the end of the last epoch, prefetched. Closing the generator ends its workers.

    last_epoch: where to end before the run does. chances: of each case to be drawn, as in `sampling.draw`.
    Raises UserError where shared memory cannot hold what the workers prefetch.
    """
    dataset = Batches(cases, config, patches_per_epoch(config.train), chances)
    return _stream(dataset, config, first_epoch, last_epoch or config.train.epochs, pin_memory)


def unlabelled_batches(cases, config, *, first_epoch, pin_memory):
    """As `batches`, of patches without labels."""
    dataset = UnlabelledBatches(cases, config, patches_per_epoch(config.train))
    return _stream(dataset, config, first_epoch, config.train.epochs, pin_memory)


def _stream(dataset, config, first_epoch, last_epoch, pin_memory):
    train, workers, per_epoch = config.train, config.data.workers, dataset.per_epoch
    _check_shared_memory(workers, train.batch_size, config.data.patch_size)
    loader = DataLoader(
        dataset,
        sampler=range(
            (first_epoch - 1) * per_epoch // train.batch_size,
            last_epoch * per_epoch // train.batch_size,
        ),
        batch_size=None,
        generator=torch.Generator().manual_seed(
            config.seed
        ),  # of its own, or starting workers would move the program's generator on
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=None
        if get_start_method() == "forkserver"
        else partial(_end_without, os.getpid()),  # there the parent is another
    )
    with _interrupts_held_back() if workers else nullcontext():
        stream = iter(loader)  # starts the workers
    # The iterator lives in this generator's frame alone: when that is closed or forgotten, its workers end.
    yield from stream


def _end_without(parent, worker):
    """End this worker once its parent has: torch's own watch learns who the parent is too late where that is killed while workers start,
    and such a worker would wait for ever, with its memory."""

    def watch():
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


@contextmanager
def _interrupts_held_back():
    """Ctrl-C reaches every process of the terminal; the parent ends its workers, which otherwise die before it, with tracebacks.

    A worker inherits that they are held back, from its first instruction on; the parent gets them a moment later.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_shared_memory(workers, batch_size, patch_size):
    """Batches travel from workers through /dev/shm, 64 MiB in a container by default; where it is full the kernel kills with SIGBUS."""
    if not workers or not SHARED_MEMORY.exists():
        return
    needed = workers * (PREFETCH + 1) * batch_size * math.prod(patch_size) * BYTES_PER_VOXEL
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise UserError(
            f"data.workers = {workers}: their batches take {needed / 2**20:.0f} MiB of shared memory and {SHARED_MEMORY} has "
            f"{free / 2**20:.0f} MiB free; give the container more (docker run --shm-size=2g) or --set data.workers=0"
        )
