"""U-Mamba as its authors build it: nnU-Net's residual U-Net with Mamba in its encoder.

Ma et al. 2024, "U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation"
(github.com/bowang-lab/U-Mamba, nnunetv2/nets/UMambaBot_3d.py and UMambaEnc_3d.py). umamba_bot has
one Mamba layer behind the deepest stage, umamba_enc one behind every stage, without a residual
around it. nnU-Net's planner decides on the strides from the patch, `model.planned_for`.

umamba_enc takes voxels for tokens while a stage has more voxels than channels, and channels for
tokens below: a layer of the latter has as many features as its stage has voxels in a patch.

The authors switch autocast off around a Mamba layer, which in half precision gave them NaN; so does
this code. The rest of the network trains in mixed precision.

Legend: B batch, C channels, D, H, W the axes of a volume, s a stage, 0 at full resolution.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models.authors_mamba import MambaLayer
from segmamba.models.authors_network import AuthorsNetwork, turned_axes
from segmamba.models.layers import Conv, InstanceNorm, PointwiseConv
from segmamba.models.mamba import MEMORY_ORDER, ScanDirection
from segmamba.models.nnunet_plan import PATCH, Plan, Stride
from segmamba.models.outputs import output_channels
from segmamba.models.scan import without_autocast
from segmamba.models.segmamba import IN_CHANNELS

SLOPE = 1e-2
"""Of the leaky ReLU, also in He's initialisation."""
FORWARD = {"": [ScanDirection(MEMORY_ORDER)]}
"""U-Mamba scans once, in memory order."""


class _UMamba(AuthorsNetwork):
    """What both variants share; they differ in the encoder.

    Args:
        config: The settings.
    """

    def __init__(self, config: ModelConfig) -> None:
        patch = [(config.planned_for or PATCH)[axis] for axis in turned_axes(config)]
        plan = Plan(patch, config.base_channels)
        super().__init__(config, plan.total_stride)
        self.further_outputs = config.deep_supervision
        self.encoder = self._build_encoder(plan, config)
        self.decoder = _Decoder(self.encoder, plan, len(output_channels(config)))
        self.apply(_he_initialised)

    @abstractmethod
    def _build_encoder(self, plan: Plan, config: ModelConfig) -> "_Encoder":
        """The encoder, and what else stands beside it."""

    def encode(self, x: Tensor) -> list[Tensor]:
        """The features of every stage, full resolution first."""
        return self.encoder(x)

    def predict(self, x: Tensor) -> list[Tensor]:
        """Predict logits of (B, 4, D, H, W), full resolution first."""
        return self.decoder(self.encode(x), 1 + (self.further_outputs if self.training else 0))


class UMambaBot(_UMamba):
    """U-Mamba with one Mamba layer, behind the deepest stage.

    `model.deep_supervision` = 3 is what the authors train with: outputs at full resolution, 1/2,
    1/4 and 1/8, each weighing half of the one before.

    Args:
        config: The settings.
    """

    def _build_encoder(self, plan: Plan, config: ModelConfig) -> "_Encoder":
        self.mamba_layer = FullPrecisionMamba(plan.widths[-1], config)
        return _Encoder(plan)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The features of every stage, full resolution first."""
        *features, deepest = self.encoder(x)
        return [*features, self.mamba_layer(deepest)]


class UMambaEnc(_UMamba):
    """U-Mamba with a Mamba layer behind every stage.

    It takes `model.deep_supervision` as UMambaBot does.

    Args:
        config: The settings.
    """

    def _build_encoder(self, plan: Plan, config: ModelConfig) -> "_Encoder":
        return _MambaEncoder(plan, config)


class FullPrecisionMamba(MambaLayer):
    """A Mamba layer in fp32, whatever autocast says; the voxels are the tokens."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__(channels, FORWARD, config)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of (B, C, D, H, W)."""
        with without_autocast(x):
            return super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))


class ChannelTokens(FullPrecisionMamba):
    """A Mamba layer in fp32 whose tokens are the channels; each has a feature for every voxel."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of (B, C, D, H, W).

        Raises:
            UserError: There are not as many voxels as features.
        """
        voxels, features = math.prod(x.shape[2:]), self.norm.normalized_shape[0]
        if voxels != features:
            raise UserError(
                f"umamba_enc: {voxels} voxels reach a layer that was planned for {features}; give "
                "patches of the size in model.planned_for"
            )
        with without_autocast(x):
            tokens = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(2)
            return self.mamba(self.norm(tokens), (x.shape[1], 1, 1)).reshape(x.shape)


class _Encoder(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        first = plan.widths[0]
        self.stem = _stage(IN_CHANNELS, first, 1, plan.blocks[0])
        given = (first, *plan.widths)
        stages = zip(given, plan.widths, plan.strides, plan.blocks, strict=False)
        self.stages = nn.ModuleList(_stage(*stage) for stage in stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _MambaEncoder(_Encoder):
    def __init__(self, plan: Plan, config: ModelConfig) -> None:
        super().__init__(plan)
        self.mamba_layers = nn.ModuleList(
            ChannelTokens(voxels, config) if voxels <= width else FullPrecisionMamba(width, config)
            for voxels, width in zip(plan.voxels, plan.widths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.stem(x), []
        for stage, mamba in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba(stage(x))
            features.append(x)
        return features


class _Decoder(nn.Module):
    """nnU-Net's decoder, with nearest neighbours in place of transposed convolutions."""

    def __init__(self, encoder: nn.Module, plan: Plan, channels: int) -> None:
        super().__init__()
        self.encoder = encoder  # the authors' files have its weights here once more
        deeper = list(zip(plan.widths[:-1], plan.widths[1:], plan.strides[1:], strict=True))[::-1]
        self.stages = nn.ModuleList(
            _stage(2 * width, width, 1, blocks)
            for (width, _, _), blocks in zip(deeper, plan.decoder_blocks, strict=True)
        )
        self.upsample_layers = nn.ModuleList(_Upsample(below, w, step) for w, below, step in deeper)
        self.seg_layers = nn.ModuleList(PointwiseConv(width, channels) for width, _, _ in deeper)

    def forward(self, features: list[Tensor], outputs: int) -> list[Tensor]:
        x, skips = features[-1], features[-2::-1]
        logits: list[Tensor] = []
        first = len(self.stages) - outputs
        layers = zip(self.upsample_layers, self.stages, self.seg_layers, skips, strict=True)
        for number, (up, stage, head, skip) in enumerate(layers):
            x = stage(torch.cat([up(x), skip], dim=1))
            if number >= first:
                logits.insert(0, head(x))
        return logits


class _Upsample(nn.Module):
    """Nearest neighbours and a pointwise convolution.

    The convolution comes first: the two commute, and there are fewer voxels before.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Stride) -> None:
        super().__init__()
        self.conv, self.stride = PointwiseConv(in_channels, out_channels), stride

    def forward(self, x: Tensor) -> Tensor:
        factors = [float(step) for step in self.stride]
        return F.interpolate(self.conv(x), scale_factor=factors, mode="nearest")


def _stage(in_channels: int, channels: int, stride: int | Stride, blocks: int) -> nn.Sequential:
    first = _ProjectedBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(_ResidualBlock(channels) for _ in range(blocks - 1)))


class _ProjectedBlock(nn.Module):
    """Two 3x3x3 convolutions beside a strided pointwise one."""

    def __init__(self, in_channels: int, channels: int, stride: int | Stride) -> None:
        super().__init__()
        self.conv1 = Conv(in_channels, channels, 3, stride=stride, padding=1)
        self.norm1 = InstanceNorm(channels)
        self.conv2 = Conv(channels, channels, 3, padding=1)
        self.norm2 = InstanceNorm(channels)
        self.conv3 = Conv(in_channels, channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = _leaky_relu(self.norm1(self.conv1(x)))
        return _leaky_relu(self.norm2(self.conv2(inner)) + self.conv3(x))


class _ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions and the input: nnU-Net's BasicBlockD of stride 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _ConvNorm(channels), _ConvNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return _leaky_relu(self.conv2(_leaky_relu(self.conv1(x))) + x)


class _ConvNorm(nn.Module):
    """A convolution and its norm, under the two names that nnU-Net's files give each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, 3, padding=1)
        self.norm = InstanceNorm(channels)
        self.all_modules = nn.Sequential(self.conv, self.norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _he_initialised(module: nn.Module) -> None:
    """nnU-Net's first values of a 3-D convolution."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
