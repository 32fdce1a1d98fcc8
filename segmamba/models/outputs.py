"""What a network's output channels stand for, and the probabilities that its logits mean. Labels follow from these in segmamba.inference.decide."""

from segmamba.data.labels import CLASSES, REGIONS

CHANNELS = {"classes": CLASSES, "regions": REGIONS}  # by `model.outputs`


def output_channels(model_config):
    """The names of a ModelConfig's output channels, in order: CLASSES, that exclude each other, or REGIONS, that overlap."""
    return CHANNELS[model_config.outputs]


def probabilities(logits, channels):
    """Logits (B, K, ...) of the `channels` as fp32 probabilities: softmax over classes, a sigmoid for each region."""
    logits = logits.float()
    return logits.sigmoid() if channels == REGIONS else logits.softmax(1)
