"""How often each training case is drawn in an epoch: equally often, or the harder the more often.

The second is online hard example mining. A case is as hard as the recent losses of its patches.
Loshchilov & Hutter 2015 (online batch selection) draw by rank, which needs no scale of losses.
Shrivastava et al. 2016 mine hard examples within a batch; batches of 3-D patches are too small for
that.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.feed import DeviceFeed
from segmamba.data.loader import batches
from segmamba.data.prefetch import Say, unsaid
from segmamba.data.preprocess import PreparedCase

MEMORY = 0.5
"""Share of a case's running loss that an epoch leaves as it was."""


class CaseSampling(Protocol):
    """What the training loop asks of `UniformSampling` and `HardCases`."""

    def stream(self, epoch: int) -> DeviceFeed:
        """Return the batches of an epoch, on the device; epochs come in their order."""

    def remember(self, case_ids: Sequence[str], losses: torch.Tensor) -> None:
        """Take in what an epoch showed: the case and the loss of each patch, in one order."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the sampling."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state that a checkpoint kept."""


def case_sampling(
    cases: Sequence[PreparedCase], config: Config, device: torch.device, say: Say = unsaid
) -> CaseSampling:
    """Return `HardCases`, or `UniformSampling` where the configuration has hard cases off.

    Args:
        cases: The labelled training cases.
        config: Its `learning.hard_case_factor` decides; 1 is off.
        device: Where the batches go.
        say: As in `batches`.

    Returns:
        The source of every epoch's batches.
    """
    if config.learning.hard_case_factor > 1:
        return HardCases(cases, config, device, say)
    return UniformSampling(cases, config, device, say)


class UniformSampling:
    """Shuffled passes through the cases: one stream of batches through all epochs."""

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        config: Config,
        device: torch.device,
        say: Say = unsaid,
    ) -> None:
        self._cases, self._config, self._device = cases, config, device
        self._say = say
        self._stream: DeviceFeed | None = None

    def stream(self, epoch: int) -> DeviceFeed:
        """Return the stream of batches, which begins at the first epoch that is asked for."""
        if self._stream is None:
            loader = batches(
                self._cases,
                self._config,
                first_epoch=epoch,
                pin_memory=self._device.type == "cuda",
                say=self._say,
            )
            self._stream = DeviceFeed(loader, self._device)
        return self._stream

    def remember(self, case_ids: Sequence[str], losses: torch.Tensor) -> None:
        """Do nothing: no chance depends on a loss."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state."""


class HardCases:
    """A stream of batches for each epoch, in which hard cases are drawn more often.

    The chances follow from the losses of the epochs before it and from nothing else.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        config: Config,
        device: torch.device,
        say: Say = unsaid,
    ) -> None:
        self._cases, self._config, self._device = cases, config, device
        self._say = say
        self._losses = np.full(len(cases), np.inf)  # a case that was never seen is hardest

    def stream(self, epoch: int) -> DeviceFeed:
        """Return the batches of one epoch."""
        loader = batches(
            self._cases,
            self._config,
            first_epoch=epoch,
            last_epoch=epoch,
            pin_memory=self._device.type == "cuda",
            chances=chances(self._losses, self._config.learning.hard_case_factor),
            say=self._say,
        )
        return DeviceFeed(loader, self._device)

    def remember(self, case_ids: Sequence[str], losses: torch.Tensor) -> None:
        """Update the running loss of each case that an epoch showed.

        Args:
            case_ids: The case of each patch.
            losses: The loss of each patch, (patches,), in the same order.
        """
        ids, values = np.array(case_ids), np.asarray(losses, np.float64)
        for place, case in enumerate(self._cases):
            seen = values[ids == case.id]
            if len(seen):
                before = self._losses[place]
                self._losses[place] = (
                    seen.mean()
                    if np.isinf(before)
                    else MEMORY * before + (1 - MEMORY) * seen.mean()
                )

    def state_dict(self) -> dict[str, Any]:
        """Return the running losses, float64 (cases,), infinite for cases that were never seen."""
        return {"losses": torch.from_numpy(self._losses.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the running losses that a checkpoint kept."""
        self._losses = state["losses"].cpu().numpy().copy()


def chances(losses: np.ndarray, factor: float) -> np.ndarray:
    """Return the probability with which each case is drawn.

    It is geometric in the rank of the loss (Loshchilov & Hutter 2015).

    Args:
        losses: The running loss of each case, (cases,); infinity is hardest.
        factor: How many times as often as the easiest the hardest case is drawn.

    Returns:
        Probabilities, (cases,), that sum to 1; cases of equal loss have equal chances.
    """
    if len(losses) == 1:
        return np.ones(1)
    below, level = (losses[None] < losses[:, None]).sum(1), (losses[None] == losses[:, None]).sum(1)
    rank = (below + (level - 1) / 2) / (len(losses) - 1)
    weight = factor**rank
    return weight / weight.sum()
