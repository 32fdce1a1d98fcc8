"""How many forward passes a training takes, and from how many on compiling pays."""

from segmamba.config import Config

PASSES_THAT_PAY = 4000
"""Forward passes from which compiling pays. Measured on one H100 with the paper's network:
compiling takes 60 to 95 s, and a forward and backward pass then takes 24 ms instead of about 50."""


def forward_passes(config: Config) -> int:
    """The forward passes of a whole training."""
    train = config.train
    return train.epochs * train.steps_per_epoch * train.accumulation
