"""The blocks of the deep stages by `model.mixer`, and those that do without a scan.

Legend: B batch, C channels, D, H, W the spatial axes, E inner channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.models.mamba import Mamba, MambaBlock, scan_directions
from segmamba.models.mamba2 import Mamba2
from segmamba.models.scan_types import scan_flops

SCANNERS = {"mamba": Mamba, "mamba2": Mamba2}
"""The layers that read the voxels as a sequence, by `model.mixer`."""
TOLERANCE = 0.02
"""Largest difference in parameters between a network or block and its control, as a share."""
KERNELS = (3, 5, 7)
"""Widths of the depthwise convolution, in voxels."""


def mixer_block(channels: int, config: ModelConfig) -> nn.Module:
    """A block of the deep stages, from (B, C, D, H, W) to the same shape.

    Args:
        channels: C.
        config: The settings; `mixer` chooses.

    Returns:
        A MambaBlock for the mixers that scan, a GatedBlock for the others.
    """
    if config.mixer in SCANNERS:
        return MambaBlock(channels, config, layer=SCANNERS[config.mixer])
    return GatedBlock(channels, config)


class GatedBlock(nn.Module):
    """A Mamba block with a depthwise convolution, or nothing, in place of its convolution and scan.

        x + out(silu(mix(u)) * silu(gate)),  (u, gate) = in(LayerNorm(x))

    It has the parameters of a MambaBlock with the same settings, within TOLERANCE, by its inner
    channels E: those of the scans go into the projections.

    Args:
        channels: C.
        config: The settings of the Mamba block that it stands for; `mixer` is "conv" or "none".
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        kernel = kernel_voxels(channels, config) if config.mixer == "conv" else 0
        inner = matched_channels(channels, config, kernel**3 + 1 if kernel else 0)
        self.norm = nn.LayerNorm(channels)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.mix = (
            nn.Conv3d(inner, inner, kernel, padding=kernel // 2, groups=inner)
            if kernel
            else nn.Identity()
        )
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of (B, C, D, H, W)."""
        u, gate = self.in_proj(self.norm(x.movedim(1, -1))).chunk(2, dim=-1)  # (B, D, H, W, E)
        mixed = F.silu(self.mix(u.movedim(-1, 1))).movedim(1, -1)
        return x + self.out_proj(mixed * F.silu(gate)).movedim(-1, 1)


def kernel_voxels(channels: int, config: ModelConfig) -> int:
    """The width of the depthwise convolution that costs most nearly what a Mamba block's scans do.

    At the paper's settings it is 5: 250 FLOPs a voxel and inner channel, those of the scan of 128
    channels with 16 states; 256 and 512 channels have 282 and 346.

    Args:
        channels: C.
        config: The settings of the Mamba block.

    Returns:
        One of KERNELS.
    """
    cost = _scan_cost(channels, config)
    return min(KERNELS, key=lambda width: abs(2 * width**3 - cost))


def matched_channels(channels: int, config: ModelConfig, mixer_parameters: int) -> int:
    """The inner channels with which a GatedBlock has the parameters of a Mamba block.

    Of those within TOLERANCE a multiple of 8 is preferred, then of 4 and 2, which GPUs multiply
    fastest.

    Args:
        channels: C.
        config: The settings of the Mamba block.
        mixer_parameters: Parameters of the mixer for each inner channel.

    Returns:
        E, 1 or more.
    """
    wanted = _mamba_parameters(channels, config)
    each = 3 * channels + mixer_parameters  # two projections in, one out
    for factor in (8, 4, 2):
        inner = max(round(wanted / each / factor), 1) * factor
        if abs(inner * each / wanted - 1) < TOLERANCE:
            return inner
    return max(round(wanted / each), 1)


def _scan_cost(channels: int, config: ModelConfig) -> int:
    """FLOPs for a token and inner channel: convolution, projections and scan, all directions."""
    rank, states = math.ceil(channels / 16), config.d_state
    products = config.d_conv + (rank + 2 * states) + rank
    directions = len(scan_directions(config.scan_order, config.scan_axes))
    return directions * (2 * products + scan_flops(1, 1, 1, states))


def _mamba_parameters(channels: int, config: ModelConfig) -> int:
    """Parameters of a Mamba layer, counted without memory and without drawing numbers."""
    with torch.device("meta"):
        return sum(p.numel() for p in MambaBlock(channels, config).mamba.parameters())
