"""Patches from the cache as an endless stream of batches, in the order that `sampling.draw` gives."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segmamba.data.sampling import draw, patch_slices


@dataclass(frozen=True)
class Batch:
    """image: float (B, 4, D, H, W); label: uint8 (B, D, H, W); the rest: one value per patch."""

    image: torch.Tensor
    label: torch.Tensor
    epoch: torch.Tensor
    index: torch.Tensor
    on_tumour: torch.Tensor
    cases: list


class Patches(Dataset):
    """Maps a global patch number to its patch: number n is index n % per_epoch of epoch n // per_epoch + 1."""

    def __init__(self, cases, config, per_epoch):
        self.cases, self.seed, self.config, self.per_epoch = cases, config.seed, config.data, per_epoch

    def __getitem__(self, number):
        epoch, index = number // self.per_epoch + 1, number % self.per_epoch
        chosen = draw(self.cases, self.seed, epoch, index, self.per_epoch, self.config.tumour_centre_share)
        case = self.cases[chosen.case]
        window = patch_slices(case.shape, chosen.centre, self.config.patch_size)
        image = _padded(case.image()[(slice(None), *window)], self.config.patch_size)
        label = _padded(case.label()[window], self.config.patch_size)
        return torch.from_numpy(image), torch.from_numpy(label), epoch, index, chosen.on_tumour, case.id


def _padded(array, size):
    """The last three axes zero-padded behind to `size`; always a copy in memory."""
    missing = [s - n for s, n in zip(size, array.shape[-3:], strict=True)]
    return np.pad(array, [(0, 0)] * (array.ndim - 3) + [(0, m) for m in missing]) if any(missing) else np.array(array)


def batches(cases, config, *, first_epoch, pin_memory):
    """Batches from the start of `first_epoch` to the end of the last epoch, endlessly prefetched."""
    train = config.train
    per_epoch = train.steps_per_epoch * train.accumulation * train.batch_size
    loader = DataLoader(
        Patches(cases, config, per_epoch),
        sampler=range((first_epoch - 1) * per_epoch, train.epochs * per_epoch),
        batch_size=train.batch_size,
        num_workers=config.data.workers,
        pin_memory=pin_memory,
    )
    for image, label, epoch, index, on_tumour, ids in loader:
        yield Batch(image, label, epoch, index, on_tumour, list(ids))
