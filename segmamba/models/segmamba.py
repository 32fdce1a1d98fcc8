"""SegMamba: a 3-D U-Net whose upper stages convolve and whose deep stages scan.

    stem    full resolution      conv block
    stage 1 full                 conv blocks
    stage 2 1/2                  conv blocks
    stage 3 1/4                  conv blocks, then Mamba blocks
    stage 4 1/8                  Mamba blocks
    bottleneck 1/16              Mamba blocks
    decoder 4-1                  upsampling, skip of the stage with its number, conv block
    head    full                 1x1x1 convolution to logits

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z). Every level has twice the channels of the one above.
"""

from dataclasses import dataclass

import torch
from torch import nn

from segmamba.config import LEVELS, SIDE_MULTIPLE
from segmamba.errors import UserError
from segmamba.models.blocks import (
    AttentionGate,
    ConvBlock,
    Downsample,
    PointwiseConv,
    checkpointed,
    upsample_layer,
)
from segmamba.models.mamba import MambaBlock
from segmamba.models.outputs import output_channels

MODALITIES = 4  # T1, T1ce, T2, FLAIR


@dataclass(frozen=True)
class Plan:
    """Channels, conv blocks and Mamba blocks of the five levels: stages 1-4 and the bottleneck."""

    widths: tuple
    convs: tuple
    mambas: tuple


def segmamba_plan(config):
    widths = tuple(config.base_channels * 2**level for level in range(LEVELS))
    return Plan(widths, (*config.conv_depths, 0, 0), (0, 0, *config.mamba_depths))


class SegMamba(nn.Module):
    """(B, 4, D, H, W) -> logits (B, K, D, H, W) of the K `output_channels`; D, H and W are multiples of `side_multiples`.

    With deep supervision, in training mode: a list of logits, full resolution first, then 1/2, 1/4 ...
    Works in the channels-last memory format whatever it is given: 1.6 to 2 times as fast as contiguous on CPU and GPU.
    """

    side_multiples = (SIDE_MULTIPLE,) * 3

    def __init__(self, config, plan):
        super().__init__()
        above, channels = plan.widths[:-1], len(output_channels(config))
        self.recomputed = {level - 1 for level in config.checkpoint_stages}
        self.stem = ConvBlock(MODALITIES, plan.widths[0], config.norm)
        self.stages = nn.ModuleList(_stage(config, plan, level) for level in range(LEVELS))
        self.ups = nn.ModuleList(
            upsample_layer(config.upsample, b, a)
            for a, b in reversed(list(zip(above, plan.widths[1:], strict=True)))
        )
        self.gates = nn.ModuleList(
            AttentionGate(w) if config.attention_gates else _Ungated() for w in reversed(above)
        )
        self.decoders = nn.ModuleList(ConvBlock(2 * w, w, config.norm) for w in reversed(above))
        self.head = PointwiseConv(plan.widths[0], channels)
        self.deep_heads = nn.ModuleList(
            PointwiseConv(w, channels) for w in above[1 : 1 + config.deep_supervision]
        )

    def forward(self, x):
        check_sides(x.shape[2:], self.side_multiples)
        x, skips = self._run(self.stem, 0, x.contiguous(memory_format=torch.channels_last_3d)), []
        for level, stage in enumerate(self.stages):
            x = self._run(stage, level, x)
            skips.append(x)
        decoded = [skips.pop()]
        for up, gate, decoder in zip(self.ups, self.gates, self.decoders, strict=True):
            skip, level = skips.pop(), len(skips)
            raised = self._run(up, level, decoded[0])
            decoded.insert(
                0, self._run(decoder, level, torch.cat([raised, gate(skip, raised)], dim=1))
            )
        logits = self.head(decoded[0])
        if not (self.training and self.deep_heads):
            return logits
        return [
            logits,
            *(head(features) for head, features in zip(self.deep_heads, decoded[1:], strict=False)),
        ]

    def _run(self, part, level, x):
        return (
            checkpointed(part, x)
            if level in self.recomputed and torch.is_grad_enabled()
            else part(x)
        )


def _stage(config, plan, level):
    width = plan.widths[level]
    down = [Downsample(plan.widths[level - 1], width, config.norm)] if level else []
    convs = [ConvBlock(width, width, config.norm) for _ in range(plan.convs[level])]
    return nn.Sequential(
        *down, *convs, *(MambaBlock(width, config) for _ in range(plan.mambas[level]))
    )


class _Ungated(nn.Module):
    """The attention gate's null object: the skip as it is."""

    def forward(self, skip, gating):
        return skip


def check_sides(sides, multiples):
    """UserError that names the axis and the nearest legal sizes, where a network's input has a side that it cannot halve."""
    for axis, side, multiple in zip("xyz", sides, multiples, strict=True):
        if side == 0 or side % multiple:
            low, high = side // multiple * multiple, (side // multiple + 1) * multiple
            nearest = f"{low} or {high}" if low else f"{high}"
            raise UserError(
                f"network input of {' x '.join(map(str, sides))} voxels: axis {axis} must be a multiple of {multiple}, not {side}; "
                f"nearest: {nearest} (data.patch_size, or pad the volume)"
            )
