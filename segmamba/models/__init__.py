"""The networks, by configuration. Imports torch, and nothing that needs a GPU."""

import re
from collections.abc import Callable

import torch
from torch import nn

from segmamba.config import ModelConfig
from segmamba.models.baselines import control_plan, unet_plan
from segmamba.models.peers import PEERS
from segmamba.models.segmamba import SegMamba, StagePlan, segmamba_plan
from segmamba.models.umamba import UMambaBot, UMambaEnc
from segmamba.models.xing import SegMambaV2, XingSegMamba

__all__ = ["build_model", "decay_groups", "side_multiples"]

PLANS: dict[str, Callable[[ModelConfig], StagePlan]] = {
    "segmamba": segmamba_plan,
    "unet": unet_plan,
    "control": control_plan,
}
AUTHORS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "segmamba_xing": XingSegMamba,
    "segmamba_v2": SegMambaV2,
    "umamba_bot": UMambaBot,
    "umamba_enc": UMambaEnc,
}
"""The field's Mamba networks, on our scan."""
UNDECAYED = re.compile(r"(A(_[bs])?_log|D(_[bs])?|.*bias.*)")
"""The names of parameters that weight decay would pull off their scale, and of biases."""
NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
)


def build_model(config: ModelConfig) -> nn.Module:
    """Build the network of a configuration, with initial weights that follow torch's global seed.

    The network maps a batch of z-scored images, float (B, 4, D, H, W) with the modalities in the
    order T1, T1ce, T2, FLAIR, to logits (B, K, D, H, W). The K channels are those that
    `segmamba.models.outputs.output_channels` names: the classes or the regions of `model.classes`,
    as `model.outputs` says. D, H and W stand for NIfTI x, y and z and must be multiples of
    `side_multiples(config)`; the forward pass raises a UserError for other sides. In training mode,
    `model.deep_supervision` makes it return a list of logits, full resolution first.

        config = preset("paper").changed({"model.base_channels": 16})
        model = build_model(config.model)
        logits = model(torch.randn(2, 4, 128, 128, 64))  # (2, 4, 128, 128, 64)

    Args:
        config: The `model` section of a Config.

    Returns:
        The network on the CPU, in training mode. Networks of this package hold their weights in the
        channels-last memory format.

    Raises:
        UserError: The package that the network comes from is missing (`pip install
            'segmamba[peers]'`), or no widths give the control its number of parameters.
    """
    if config.name in PEERS:
        return PEERS[config.name](config)
    model = (
        AUTHORS[config.name](config)
        if config.name in AUTHORS
        else SegMamba(config, PLANS[config.name](config))
    )
    return model.to(  # type: ignore[call-overload]  # torch's stubs have no memory format alone
        memory_format=torch.channels_last_3d
    )


def side_multiples(config: ModelConfig) -> tuple[int, int, int]:
    """The numbers of voxels of which the sides D, H and W of a network's input must be multiples.

    A network of this package is not built for that; another's is, without memory where it can be.

    Args:
        config: The `model` section of a Config.

    Returns:
        One number for each of D, H and W.

    Raises:
        UserError: The network's package is missing, or no widths fit the control.
        ValueError: Another's network refuses its width.
    """
    if config.name in PEERS:
        return PEERS[config.name](config).side_multiples
    if config.name in AUTHORS:
        with torch.device("meta"):
            return AUTHORS[config.name](config).side_multiples  # type: ignore[return-value]  # each has them
    PLANS[config.name](config)
    return SegMamba.side_multiples


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Sort a network's parameters by whether the optimizer decays them.

    Weight decay would pull A_log and D off their scale, and norms and biases gain nothing from it.

    Args:
        model: Any network.

    Returns:
        The decayed parameters and the undecayed ones.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            free = UNDECAYED.fullmatch(name) or isinstance(module, NORMS)
            (undecayed if free else decayed).append(parameter)
    return decayed, undecayed
