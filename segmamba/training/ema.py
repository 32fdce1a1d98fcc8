"""An exponential moving average (EMA) of the weights, kept in a network of its own.

The averaged network is validated, saved and tested in place of the trained one.
"""

import copy
from typing import Protocol

import torch

from segmamba.config import LearningConfig


class WeightAverage(Protocol):
    """What the training loop asks of `EMA` and `NoEMA`."""

    model: torch.nn.Module
    """The network that is validated, saved and tested."""

    def update(self, step: int) -> None:
        """Take in the weights that optimiser step `step` (from 0) has made."""


def weight_average(model: torch.nn.Module, config: LearningConfig) -> WeightAverage:
    """Return `EMA`, or `NoEMA` where the configuration switches the average off.

    Args:
        model: The network that is trained.
        config: Its `ema_decay` is the decay per optimiser step; 0 is off.

    Returns:
        An average that begins at the weights of `model`.
    """
    return EMA(model, config.ema_decay) if config.ema_decay else NoEMA(model)


class EMA:
    """A moving average of a network's weights.

    In the first steps the decay is (1 + step) / (10 + step) where that is smaller than `decay`
    (Abadi et al. 2016, TensorFlow's num_updates), so that the random first weights are soon
    forgotten. The statistics of batch norms are averaged likewise; their counters are copied.
    """

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        """Begin the average with a copy of `model`.

        Args:
            model: The network that is trained.
            decay: Share of the average that an optimiser step leaves as it was, in [0, 1).
        """
        self.model: torch.nn.Module = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        floating = [(average, source) for average, source in pairs if source.is_floating_point()]
        self._averages = [average for average, _ in floating]
        self._sources = [source for _, source in floating]
        self._counters = [(a, source) for a, source in pairs if not source.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights that optimiser step `step` (from 0) has made."""
        torch._foreach_lerp_(
            self._averages,
            [source.detach() for source in self._sources],
            1 - min(self._decay, (1 + step) / (10 + step)),
        )
        for average, source in self._counters:
            average.copy_(source)


class NoEMA:
    """No average: the trained network itself is validated, saved and tested."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def update(self, step: int) -> None:
        """Do nothing: `model` already has its new weights."""


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
