"""Which training cases an epoch's patches come from: all alike, or the harder the more often (online hard example mining).

A case is as hard as its patches' recent losses. Loshchilov & Hutter 2015 (online batch selection) draw by rank, which needs no scale of
losses; Shrivastava et al. 2016 mine hard examples within a batch, of which 3-D patches leave too few.
"""

import numpy as np
import torch

from segmamba.data.feed import DeviceFeed
from segmamba.data.loader import batches

MEMORY = 0.5  # share of a case's running loss that an epoch leaves as it was


def training_cases(cases, config, device):
    """`HardCases`, or its null object where `config`, a Config, has them off."""
    return (HardCases if config.learning.hard_case_factor > 1 else UniformSampling)(
        cases, config, device
    )


class UniformSampling:
    """Shuffled passes through the cases: one stream of batches through all epochs."""

    def __init__(self, cases, config, device):
        self._cases, self._config, self._device, self._stream = cases, config, device, None

    def stream(self, epoch):
        """The DeviceFeed of epoch `epoch`; epochs are asked for in their order."""
        if self._stream is None:
            self._stream = DeviceFeed(
                batches(
                    self._cases,
                    self._config,
                    first_epoch=epoch,
                    pin_memory=self._device.type == "cuda",
                ),
                self._device,
            )
        return self._stream

    def remember(self, names, losses):
        """What an epoch has shown: case ids and losses of all its patches, in the same order."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class HardCases:
    """Each epoch has a stream of its own, with chances that follow from the losses of the epochs before it, and from nothing else."""

    def __init__(self, cases, config, device):
        self._cases, self._config, self._device = cases, config, device
        self._losses = np.full(len(cases), np.inf)  # what was never seen is hardest

    def stream(self, epoch):
        stream = batches(
            self._cases,
            self._config,
            first_epoch=epoch,
            last_epoch=epoch,
            pin_memory=self._device.type == "cuda",
            chances=chances(self._losses, self._config.learning.hard_case_factor),
        )
        return DeviceFeed(stream, self._device)

    def remember(self, names, losses):
        names, losses = np.array(names), np.asarray(losses, np.float64)
        for place, case in enumerate(self._cases):
            seen = losses[names == case.id]
            if len(seen):
                before = self._losses[place]
                self._losses[place] = (
                    seen.mean()
                    if np.isinf(before)
                    else MEMORY * before + (1 - MEMORY) * seen.mean()
                )

    def state_dict(self):
        return {"losses": torch.from_numpy(self._losses.copy())}

    def load_state_dict(self, state):
        self._losses = state["losses"].cpu().numpy().copy()


def chances(losses, factor):
    """The probability of each case to be drawn: the hardest's is `factor` times the easiest's, geometric in the rank; ties share theirs."""
    if len(losses) == 1:
        return np.ones(1)
    below, level = (losses[None] < losses[:, None]).sum(1), (losses[None] == losses[:, None]).sum(1)
    rank = (below + (level - 1) / 2) / (len(losses) - 1)
    weight = factor**rank
    return weight / weight.sum()
