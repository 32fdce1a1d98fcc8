"""How the weights move: the optimizer under mixed precision, and the learning rate of each step."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch

from segmamba.config import Config, OptimConfig
from segmamba.device import autocast, mixed_dtype
from segmamba.models import decay_groups

OF_CONFIG = ("weight_decay", "betas", "momentum", "nesterov")
"""What a group of parameters has from the configuration, and never from a checkpoint."""


def torch_optimizer(model: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build torch's optimizer for a network.

    Args:
        model: The network, on its device.
        config: Which, and its settings. A fused kernel moves all weights at once.
    """
    decayed, undecayed = decay_groups(model)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True
    )


class Optimizer:
    """The optimizer with gradient scaling, clipping and accumulation.

    `backward` adds to the gradients; `step` moves the weights and clears the gradients.
    """

    def __init__(self, model: torch.nn.Module, config: Config, device: torch.device) -> None:
        """Set up the optimizer of a network.

        Args:
            model: The network, on `device`.
            config: Its `optim` and `train` settings count.
            device: On a GPU passes run in mixed precision.
        """
        self._model, self._device, self._clip_norm = model, device, config.optim.clip_norm
        self._optimizer = torch_optimizer(model, config.optim)
        self._dtype = mixed_dtype(device, config.train.precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)
        # A CUDA graph's next pass overwrites the gradients of the pass before. Where several passes
        # are added up, the gradients therefore keep memory of their own.
        self._one_pass = config.train.accumulation == 1 and not config.learning.consistency_weight
        if not self._one_pass:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which forward passes run in this run's precision."""
        return autocast(self._device, self._dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a scalar loss to the gradients."""
        self._scaler.scale(loss).backward()

    def step(self, rate: float) -> None:
        """Move the weights at learning rate `rate` and clear the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=self._one_pass)

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of the weights and the gradient scaler's state."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments of a checkpoint.

        Weight decay, betas and momentum stay as the configuration has them, whatever the checkpoint
        was saved under.
        """
        own = [
            {name: group[name] for name in OF_CONFIG if name in group}
            for group in self._optimizer.param_groups
        ]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group.update(settings)
        self._scaler.load_state_dict(state["scaler"])


def learning_rate(step: int, config: Config) -> float:
    """Return the learning rate of one optimiser step.

    Warm-up over W steps gives lr * (step + 1) / W. Then follows the cosine of Loshchilov & Hutter
    2017, eq. 5, or the polynomial of Chen et al. 2018, section 3.2. Both end at `min_lr` exactly on
    the last step.

    Args:
        step: The optimiser step, from 0.
        config: Its `optim` and `train` settings give the schedule.

    Returns:
        The rate.
    """
    optim, per_epoch = config.optim, config.train.steps_per_epoch
    warmup, total = optim.warmup_epochs * per_epoch, config.train.epochs * per_epoch
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup - 1)
    if optim.schedule == "polynomial":
        height = (1 - share) ** optim.power
    else:
        height = 0.5 * (1 + math.cos(math.pi * share))
    return optim.min_lr + (optim.lr - optim.min_lr) * height
