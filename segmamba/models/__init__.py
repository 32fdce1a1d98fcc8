"""The networks, by configuration. Imports torch, and nothing that needs a GPU."""

import torch
from torch import nn

from segmamba.models.baselines import control_plan, unet_plan
from segmamba.models.peers import PEERS
from segmamba.models.segmamba import SegMamba, segmamba_plan

__all__ = ["build_model", "decay_groups", "side_multiples"]

PLANS = {"segmamba": segmamba_plan, "unet": unet_plan, "control": control_plan}


def build_model(config):
    """The network of a ModelConfig: (B, 4, D, H, W) float to logits (B, K, D, H, W), K as `model.outputs` says.

    Initial weights follow torch's global seed.
    With `deep_supervision` it returns a list of logits in training mode, full resolution first.
    UserError where the network's package is missing, and in its forward where a side of the input does not fit.
    """
    if config.name in PEERS:
        return PEERS[config.name](config)
    return SegMamba(config, PLANS[config.name](config)).to(memory_format=torch.channels_last_3d)


def side_multiples(config):
    """What the sides of the input of a ModelConfig's network must be multiples of.

    UserError where the network's package is missing or no widths serve; ValueError where another's network refuses its width. A network
    of ours is not built for that.
    """
    if config.name in PEERS:
        return PEERS[config.name](config).side_multiples
    PLANS[config.name](config)
    return SegMamba.side_multiples


def decay_groups(model):
    """(decayed, undecayed) parameters: weight decay pulls A_log and D off their scale and norms and biases gain nothing from it."""
    decayed, undecayed = [], []
    norms = (
        nn.modules.batchnorm._BatchNorm,
        nn.modules.instancenorm._InstanceNorm,
        nn.LayerNorm,
        nn.GroupNorm,
    )
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            free = name in ("A_log", "D") or "bias" in name or isinstance(module, norms)
            (undecayed if free else decayed).append(parameter)
    return decayed, undecayed
