"""The networks, by configuration. Imports torch, and nothing that needs a GPU."""

import torch
from torch import nn

from segmamba.models.segmamba import SegMamba

__all__ = ["build_model", "decay_groups"]


def build_model(config):
    """The network of a ModelConfig: (B, 4, D, H, W) float to logits (B, 4, D, H, W). Initial weights follow torch's global seed."""
    return SegMamba(config).to(memory_format=torch.channels_last_3d)


def decay_groups(model):
    """(decayed, undecayed) parameters: weight decay pulls A_log and D off their scale and norms and biases gain nothing from it."""
    decayed, undecayed = [], []
    norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            free = name in ("A_log", "D") or "bias" in name or isinstance(module, norms)
            (undecayed if free else decayed).append(parameter)
    return decayed, undecayed
