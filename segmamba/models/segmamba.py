"""SegMamba: a 3-D U-Net whose upper stages convolve and whose deep stages scan.

    stem    full resolution      conv block
    stage 1 full                 conv blocks
    stage 2 1/2                  conv blocks
    stage 3 1/4                  conv blocks, then Mamba blocks
    stage 4 1/8                  Mamba blocks
    bottleneck 1/16              Mamba blocks
    decoder 4-1                  upsampling, skip of the stage with its number, conv block
    head    full                 1x1x1 convolution to logits

Every level has twice the channels of the one above.

Legend: B batch, C channels, K output channels, D, H, W the spatial axes (NIfTI x, y, z).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segmamba.config import LEVELS, SIDE_MULTIPLE, ModelConfig
from segmamba.data.labels import MODALITIES
from segmamba.errors import UserError
from segmamba.models.blocks import AttentionGate, ConvBlock, Downsample
from segmamba.models.layers import PointwiseConv, upsample_layer
from segmamba.models.mixers import mixer_block
from segmamba.models.outputs import output_channels
from segmamba.models.recomputation import checkpointed

IN_CHANNELS = len(MODALITIES)


@dataclass(frozen=True)
class StagePlan:
    """Channels, conv blocks and Mamba blocks of the five levels: stages 1-4 and the bottleneck."""

    widths: tuple[int, ...]
    convs: tuple[int, ...]
    mambas: tuple[int, ...]


def segmamba_plan(config: ModelConfig) -> StagePlan:
    """Plan SegMamba: conv blocks in stages 1-3, Mamba blocks in stages 3-4 and the bottleneck.

    Args:
        config: The settings.

    Returns:
        A plan of LEVELS levels.
    """
    widths = tuple(config.base_channels * 2**level for level in range(LEVELS))
    return StagePlan(widths, (*config.conv_depths, 0, 0), (0, 0, *config.mamba_depths))


class SegMamba(nn.Module):
    """The network of a StagePlan: (B, 4, D, H, W) to logits (B, K, D, H, W).

    It works in the channels-last memory format whatever it is given, which is 1.6 to 2 times as
    fast as the contiguous one on CPU and GPU; narrow levels on a CPU work in the plain one.

    Args:
        config: The settings; they name the K `output_channels`.
        plan: The widths and depths of the levels.
    """

    side_multiples = (SIDE_MULTIPLE,) * 3
    """D, H and W must be multiples of these."""

    def __init__(self, config: ModelConfig, plan: StagePlan) -> None:
        super().__init__()
        above, channels = plan.widths[:-1], len(output_channels(config))
        self.recomputed = {level - 1 for level in config.checkpoint_stages}
        self.stem = ConvBlock(IN_CHANNELS, plan.widths[0], config.norm)
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

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Predict logits.

        Args:
            x: Float (B, 4, D, H, W), z-scored, in the order of MODALITIES.

        Returns:
            Logits (B, K, D, H, W). With deep supervision, in training mode, a list of logits: full
            resolution first, then 1/2, 1/4 and so on.

        Raises:
            UserError: A side is no multiple of `side_multiples`.
        """
        check_sides(x.shape[2:], self.side_multiples)
        x = self._run(self.stem, 0, self.stem.laid_out(x))
        skips = []
        for level, stage in enumerate(self.stages):
            x = self._run(stage, level, x)
            skips.append(x)
        decoded = [skips.pop()]
        for up, gate, decoder in zip(self.ups, self.gates, self.decoders, strict=True):
            skip, level = skips.pop(), len(skips)
            raised = self._run(up, level, decoded[0])
            merged = torch.cat([raised, gate(skip, raised)], dim=1)
            decoded.insert(0, self._run(decoder, level, merged))
        logits = self.head(decoded[0])
        if not (self.training and self.deep_heads):
            return logits
        coarser = zip(self.deep_heads, decoded[1:], strict=False)
        return [logits, *(head(features) for head, features in coarser)]

    def _run(self, part: nn.Module, level: int, x: Tensor) -> Tensor:
        if level in self.recomputed and torch.is_grad_enabled():
            return checkpointed(part, x)
        return part(x)


def _stage(config: ModelConfig, plan: StagePlan, level: int) -> nn.Sequential:
    width = plan.widths[level]
    down = [Downsample(plan.widths[level - 1], width, config.norm)] if level else []
    convs = [ConvBlock(width, width, config.norm) for _ in range(plan.convs[level])]
    mambas = [mixer_block(width, config) for _ in range(plan.mambas[level])]
    return nn.Sequential(*down, *convs, *mambas)


class _Ungated(nn.Module):
    """The attention gate's null object: the skip as it is."""

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        return skip


def check_sides(sides: Sequence[int], multiples: Sequence[int]) -> None:
    """Refuse a network input whose sides the network cannot halve as often as it needs.

    Args:
        sides: Voxels along x, y and z.
        multiples: What each must be a multiple of.

    Raises:
        UserError: A side is none; the message names the axis and the nearest legal sizes.
    """
    for axis, side, multiple in zip("xyz", sides, multiples, strict=True):
        if side == 0 or side % multiple:
            low, high = side // multiple * multiple, (side // multiple + 1) * multiple
            nearest = f"{low} or {high}" if low else f"{high}"
            raise UserError(
                f"network input of {' x '.join(map(str, sides))} voxels: axis {axis} must be a "
                f"multiple of {multiple}, not {side}; nearest: {nearest} (data.patch_size, or pad "
                "the volume)"
            )
