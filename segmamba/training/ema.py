"""An exponential moving average of the weights (EMA): a network of its own that is validated, kept and tested in the trained one's place."""

import copy

import torch


def averaged(model, config):
    """`EMA`, or its null object where `config`, a LearningConfig, has it off."""
    return EMA(model, config.ema_decay) if config.ema_decay else NoEMA(model)


class EMA:
    """`model` is the average. It starts as a copy.

    Over the first steps the decay is (1 + step) / (10 + step) where that is smaller (Abadi et al. 2016, TensorFlow's num_updates), so that
    the first, random weights are soon forgotten. The statistics of batch norms are averaged likewise; their counters are copied.
    """

    def __init__(self, model, decay):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._averages, self._sources = zip(
            *((a, s) for a, s in pairs if s.is_floating_point()), strict=True
        )
        self._counters = [(a, s) for a, s in pairs if not s.is_floating_point()]

    @torch.no_grad()
    def update(self, step):
        """Take in the weights that optimiser step `step` (from 0) has made."""
        torch._foreach_lerp_(
            self._averages,
            [s.detach() for s in self._sources],
            1 - min(self._decay, (1 + step) / (10 + step)),
        )
        for average, source in self._counters:
            average.copy_(source)


class NoEMA:
    """The null object: the model is its own average."""

    def __init__(self, model):
        self.model = model

    def update(self, step):
        pass


def _tensors(model):
    return [*model.parameters(), *model.buffers()]
