"""The learning rate as a pure function of the step: linear warm-up, then a cosine down to `min_lr`."""

import math


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
