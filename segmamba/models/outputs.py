"""What a network's output channels stand for, and the probabilities that its logits mean.

Labels follow from these in `segmamba.inference.decide`.
"""

from torch import Tensor

from segmamba.config import ModelConfig
from segmamba.data.labels import CLASSES, REGIONS

CHANNELS: dict[str, tuple[str, ...]] = {"classes": CLASSES, "regions": REGIONS}
"""The channels by `model.outputs`."""


def output_channels(config: ModelConfig) -> tuple[str, ...]:
    """The names of a network's output channels, in order.

    Args:
        config: The `model` section of a Config.

    Returns:
        CLASSES, which exclude each other, or REGIONS, which overlap.
    """
    return CHANNELS[config.outputs]


def probabilities(logits: Tensor, channels: tuple[str, ...]) -> Tensor:
    """Turn logits into probabilities: softmax over classes, or a sigmoid for each region.

    Args:
        logits: Float (B, K, ...), of any precision.
        channels: CLASSES or REGIONS, the names of the K channels.

    Returns:
        float32 (B, K, ...), in [0, 1].
    """
    logits = logits.float()
    return logits.sigmoid() if channels == REGIONS else logits.softmax(1)
