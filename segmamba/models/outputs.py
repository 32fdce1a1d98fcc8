"""What a network's output channels stand for, and the probabilities that its logits mean.

Labels follow from these in `segmamba.inference.decide`.
"""

from dataclasses import dataclass

from torch import Tensor

from segmamba.config import ModelConfig
from segmamba.data.label_sets import LabelSet, label_set


@dataclass(frozen=True)
class Channels:
    """The output channels of a network: the classes of a label set, or its regions.

    `len(channels)` is their number.
    """

    labels: LabelSet
    are_regions: bool
    """Regions overlap, and each has a sigmoid. Classes exclude each other and share a softmax."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the channels, in order."""
        return self.labels.region_names if self.are_regions else self.labels.classes

    def __len__(self) -> int:
        return len(self.names)


def output_channels(config: ModelConfig) -> Channels:
    """Say what the output channels of a network are.

    Args:
        config: The `model` section of a Config.

    Returns:
        The classes or the regions of the label set `model.classes`.
    """
    return Channels(label_set(config.classes), config.outputs == "regions")


def probabilities(logits: Tensor, channels: Channels) -> Tensor:
    """Turn logits into probabilities: softmax over classes, or a sigmoid for each region.

    Args:
        logits: Float (B, K, ...), of any precision.
        channels: The K channels.

    Returns:
        float32 (B, K, ...), in [0, 1].
    """
    logits = logits.float()
    return logits.sigmoid() if channels.are_regions else logits.softmax(1)
