"""AdamW under mixed precision: gradients are gathered by `backward`, weights moved by `step`."""

import math

import torch

from segmamba.device import autocast, mixed_dtype
from segmamba.models import decay_groups


class Optimizer:
    """Of a model on a device, as a Config has it."""

    def __init__(self, model, config, device):
        decayed, undecayed = decay_groups(model)
        groups = [
            {"params": decayed, "weight_decay": config.optim.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
        ]
        self._model, self._device, self._clip_norm = model, device, config.optim.clip_norm
        self._optimizer = torch.optim.AdamW(
            groups, lr=config.optim.lr, betas=config.optim.betas, fused=device.type == "cuda"
        )
        self._dtype = mixed_dtype(device, config.train.precision)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._dtype is torch.float16)
        # The gradients of a CUDA graph lie where its next pass writes: several passes add up in memory of their own.
        self._one_pass = config.train.accumulation == 1 and not config.learning.consistency_weight
        if not self._one_pass:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)

    def autocast(self):
        """The precision of forward passes, as a context."""
        return autocast(self._device, self._dtype)

    def backward(self, loss):
        """Add the gradient of `loss` to what is gathered."""
        self._scaler.scale(loss).backward()

    def step(self, rate):
        """Move the weights at learning rate `rate` and forget the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if self._clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=self._one_pass)

    def state_dict(self):
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state):
        """The moments of a checkpoint; decay and betas stay as the Config has them, whatever it was saved under."""
        own = [
            {name: group[name] for name in ("weight_decay", "betas")}
            for group in self._optimizer.param_groups
        ]
        self._optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            group.update(settings)
        self._scaler.load_state_dict(state["scaler"])


def learning_rate(step, config):
    """Rate of optimiser step `step` (from 0). `config` is a Config.

    Warm-up over W steps gives lr * (step + 1) / W; the cosine of Loshchilov & Hutter 2017, eq. 5, then ends at `min_lr`
    exactly on the last step.
    """
    optim, per_epoch = config.optim, config.train.steps_per_epoch
    warmup, total = optim.warmup_epochs * per_epoch, config.train.epochs * per_epoch
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup - 1)
    return optim.min_lr + 0.5 * (optim.lr - optim.min_lr) * (1 + math.cos(math.pi * share))
