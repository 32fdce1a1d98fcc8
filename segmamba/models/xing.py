"""SegMamba and SegMamba-V2 as their authors build them.

SegMamba: Xing et al. 2024, "SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image
Segmentation" (github.com/ge-xing/SegMamba, model_segmamba/segmamba.py). SegMamba-V2 is its
successor (github.com/ge-xing/SegMamba-V2, models_segmamba/segmambav2.py). Both are an encoder
between the blocks of UNETR, which are MONAI's (pip install monai).

                       SegMamba                          SegMamba-V2
    encoder's input    the image                         the first block's features
    1/2 to 1/16        2x2x2 or 7x7x7 convolution,       3x3x3 convolution,
                       gated convolution,                large kernels with squeeze and excitation,
                       2 Mamba layers                    2 Mamba layers at 1/8 and 1/16 alone
    a Mamba layer      three scans: forwards,            one scan that reads the volume
                       backwards, across slices          along three axes

Across slices, the authors cut the sequence into 64, 32, 16 and 8 pieces, the slices of an input of
128 voxels. Here the slices are those of the features, which is the same at 128 voxels and is right
at every other size.

Legend: B batch, C channels, D, H, W the axes of a volume.
"""

from abc import abstractmethod
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.models.authors_mamba import ResidualMambaLayer
from segmamba.models.authors_network import AuthorsNetwork, with_fast_layers
from segmamba.models.layers import Conv, InstanceNorm, PointwiseConv
from segmamba.models.mamba import MEMORY_ORDER, ScanDirection, scan_directions
from segmamba.models.outputs import output_channels
from segmamba.models.peers import optional_class
from segmamba.models.segmamba import IN_CHANNELS

DEPTH = 2
"""Layers of a stage."""
STAGES = 4
TOTAL_STRIDE = 2**STAGES
SUFFIXES = ("", "_b", "_s")
"""Of the parameters of the forward, backward and across-slices scan."""
V2_AXES = (MEMORY_ORDER, (1, 0, 2), (2, 1, 0))
"""The orders in which SegMamba-V2's scan reads a volume, slowest axis first."""
REDUCTION = 8
"""Channels per channel of the squeeze-and-excitation's bottleneck."""


def xing_widths(config: ModelConfig) -> tuple[int, ...]:
    """Channels of the four stages: 48, 96, 192 and 384 at 32 base channels."""
    first = max(round(1.5 * config.base_channels), 1)
    return tuple(first * 2**stage for stage in range(STAGES))


class _Unetr(AuthorsNetwork):
    """UNETR's blocks around an encoder with features at 1/2, 1/4, 1/8 and 1/16.

    Args:
        config: The settings.
        encoder: From (B, C, D, H, W) to the four features.
    """

    def __init__(self, config: ModelConfig, encoder: nn.Module) -> None:
        super().__init__(config, (TOTAL_STRIDE,) * 3)
        block, up = (
            optional_class("monai.networks.blocks.unetr_block", name)
            for name in ("UnetrBasicBlock", "UnetrUpBlock")
        )
        out = optional_class("monai.networks.blocks.dynunet_block", "UnetOutBlock")
        widths = xing_widths(config)
        levels = (*widths, 2 * widths[-1])
        fixed = {"spatial_dims": 3, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.vit = encoder
        for number, (given, wanted) in enumerate(pairwise((IN_CHANNELS, *levels)), 1):
            built = block(in_channels=given, out_channels=wanted, stride=1, **fixed)
            self.add_module(f"encoder{number}", with_fast_layers(built))
        for number in range(len(levels), 1, -1):
            built = up(
                in_channels=levels[number - 1],
                out_channels=levels[number - 2],
                upsample_kernel_size=2,
                **fixed,
            )
            self.add_module(f"decoder{number}", with_fast_layers(built))
        built = block(in_channels=widths[0], out_channels=widths[0], stride=1, **fixed)
        self.decoder1 = with_fast_layers(built)
        self.out = out(
            spatial_dims=3, in_channels=widths[0], out_channels=len(output_channels(config))
        )

    def predict(self, x: Tensor) -> list[Tensor]:
        """Predict logits (B, K, D, H, W) from (B, 4, D, H, W), as a list of one."""
        first, features = self.encode(x)
        skips = [first]
        for number, feature in enumerate(features, 2):
            skips.append(self.get_submodule(f"encoder{number}")(feature))
        decoded = skips.pop()
        for number in range(len(skips) + 1, 1, -1):
            decoded = self.get_submodule(f"decoder{number}")(decoded, skips.pop())
        return [self.out(self.decoder1(decoded))]

    @abstractmethod
    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first block's features at full resolution, and the encoder's four."""


class XingSegMamba(_Unetr):
    """SegMamba (Xing et al. 2024).

    Args:
        config: The settings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, _Encoder(config))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode the image twice: by the first block, and by the encoder."""
        return self.get_submodule("encoder1")(x), self.vit(x)


class SegMambaV2(_Unetr):
    """SegMamba-V2.

    Args:
        config: The settings.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, _EncoderV2(config))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode the image by the first block, whose features the encoder takes."""
        first = self.get_submodule("encoder1")(x)
        return first, self.vit(first)


class _Encoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = xing_widths(config)
        stem = nn.Sequential(Conv(IN_CHANNELS, widths[0], 7, stride=2, padding=3))
        self.downsample_layers = nn.ModuleList(
            [stem]
            + [
                nn.Sequential(InstanceNorm(a, affine=False), Conv(a, b, 2, stride=2))
                for a, b in pairwise(widths)
            ]
        )
        scans = {
            suffix: [direction]
            for suffix, direction in zip(SUFFIXES, scan_directions("tri", "dhw"), strict=True)
        }
        self.stages = nn.ModuleList(
            nn.Sequential(*(ResidualMambaLayer(width, scans, config) for _ in range(DEPTH)))
            for width in widths
        )
        self.gscs = nn.ModuleList(_GatedConvolution(width) for width in widths)
        self.mlps = nn.ModuleList(_Mlp(width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        levels = zip(self.downsample_layers, self.gscs, self.stages, self.mlps, strict=True)
        for down, gated, mambas, mlp in levels:
            x = mambas(gated(down(x)))
            features.append(mlp(x))
        return features


class _EncoderV2(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = xing_widths(config)
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(Conv(a, b, 3, stride=2, padding=1))
            for a, b in pairwise((widths[0], *widths))
        )
        scans = {"": [ScanDirection(axes) for axes in V2_AXES]}
        self.gscs = nn.ModuleList(
            nn.Sequential(*(_LargeKernels(width) for _ in range(DEPTH))) for width in widths
        )
        # the two upper stages have none
        self.stages = nn.ModuleList(
            nn.Identity()
            if stage < STAGES // 2
            else nn.Sequential(*(ResidualMambaLayer(width, scans, config) for _ in range(DEPTH)))
            for stage, width in enumerate(widths)
        )
        self.mlps = nn.ModuleList(_Mlp(width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        levels = zip(self.downsample_layers, self.gscs, self.stages, self.mlps, strict=True)
        for down, convolutions, mambas, mlp in levels:
            x = mambas(convolutions(down(x)))
            features.append(mlp(x))
        return features


class _Mlp(nn.Module):
    """Instance norm, then two pointwise layers with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = InstanceNorm(channels, affine=False)
        self.fc1 = PointwiseConv(channels, 2 * channels)
        self.fc2 = PointwiseConv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class _GatedConvolution(nn.Module):
    """Gated spatial convolution: two 3x3x3 beside one 1x1x1 convolution, added, mixed, residual.

    Every convolution is followed by an instance norm and ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = Conv(channels, channels, 3, padding=1)
        self.proj2 = Conv(channels, channels, 3, padding=1)
        self.proj3 = PointwiseConv(channels, channels)
        self.proj4 = PointwiseConv(channels, channels)
        self.norm = InstanceNorm(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self._normed(self.proj2, self._normed(self.proj, x))
        return x + self._normed(self.proj4, inner + self._normed(self.proj3, x))

    def _normed(self, convolution: nn.Module, x: Tensor) -> Tensor:
        return F.relu(self.norm(convolution(x)))


class _ConvNormRelu(nn.Module):
    def __init__(self, channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        convolution = (
            PointwiseConv(channels, channels)
            if kernel == 1
            else Conv(channels, channels, kernel, padding=kernel // 2 * dilation, dilation=dilation)
        )
        self.block = nn.Sequential(
            convolution, InstanceNorm(channels, affine=False), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class _LargeKernels(nn.Module):
    """A path of large kernels, a short one and the input, added and weighted by channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.deep_path = nn.Sequential(
            _ConvNormRelu(channels, 5),
            _ConvNormRelu(channels, 3),
            _ConvNormRelu(channels, 3, dilation=2),
        )
        self.shortcut_path = nn.Sequential(_ConvNormRelu(channels, 3), _ConvNormRelu(channels, 1))
        self.se = _SqueezeExcitation(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.deep_path(x) + self.shortcut_path(x) + x)


class _SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // REDUCTION, 1)
        self.fc = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = cast(Tensor, self.fc(x.mean((2, 3, 4))))
        return x * weights[..., None, None, None]
