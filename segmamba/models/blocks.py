"""The convolutional parts of our networks: conv block, downsampling, attention gate.

On a CPU, narrow levels are computed by our own kernels in the plain memory format.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.models import narrow_conv, narrow_cpu
from segmamba.models.given_statistics import (
    follow,
    normalised,
    normalised_convolved,
    takes_statistics,
)
from segmamba.models.layers import Conv, InstanceNorm, PointwiseConv, Shift, norm_layer, relu


def conv_norm_relu(conv: Conv, norm: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(conv(x))).

    It takes one pass over memory where the norm is folded and our own kernel convolves on a GPU.

    Args:
        conv: The convolution.
        norm: A norm, or the Shift that is left of one.
        x: (B, C, D, H, W).

    Returns:
        (B, C', D, H, W).
    """
    if narrow_cpu.fits(x, conv.out_channels):
        return _conv_norm_relu_on_cpu(conv, norm, x)
    if isinstance(norm, Shift) and conv.out_channels == narrow_conv.CHANNELS:
        narrow = conv.narrow_input(x)
        if narrow is not None:
            return narrow_conv.narrow_conv_relu(narrow, conv.weight, norm.offset)
    return relu(norm(conv(x)))


def _conv_norm_relu_on_cpu(conv: Conv, norm: nn.Module, x: Tensor) -> Tensor:
    """conv_norm_relu by our kernels for a CPU; the result is plain, not channels-last."""
    y = narrow_cpu.convolve(x, conv.weight)
    if conv.bias is not None:  # of a folded norm
        y = y.add_(conv.bias[:, None, None, None])
    return _norm_relu_on_cpu(norm, y)


def _norm_relu_on_cpu(norm: nn.Module, y: Tensor) -> Tensor:
    """relu(norm(y)) of a volume that our kernels for a CPU computed."""
    if isinstance(norm, InstanceNorm):
        return narrow_cpu.norm_relu(y, norm.weight, norm.bias, eps=norm.eps, samples=1)[0]
    if not (isinstance(norm, nn.BatchNorm3d) and norm.training):
        return relu(norm(y))
    y, mean, variance = narrow_cpu.norm_relu(
        y, norm.weight, norm.bias, eps=norm.eps, samples=len(y)
    )
    follow(norm, mean[0], variance[0], y[:, 0].numel())
    return y


def _scale_and_shift(conv: Conv, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a norm with known statistics, and the convolution's bias, do to its product."""
    if isinstance(norm, Shift):
        scale, shift = torch.ones_like(norm.offset), norm.offset
    elif isinstance(norm, nn.Identity):
        scale = torch.ones_like(conv.weight[:, 0, 0, 0, 0])
        shift = torch.zeros_like(scale)
    else:
        assert isinstance(norm, nn.BatchNorm3d), "an instance norm has no known statistics"
        assert norm.running_mean is not None and norm.running_var is not None, "ours track both"
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
    return scale, shift if conv.bias is None else shift + conv.bias * scale


class ConvBlock(nn.Module):
    """Twice (3x3x3 convolution, norm, ReLU), plus the input.

    A 1x1x1 convolution fits the input's channels where they differ.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        norm: "batch" or "instance".
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = Conv(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm_layer(norm, out_channels)
        self.conv2 = Conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else PointwiseConv(in_channels, out_channels, bias=False)
        )

    def laid_out(self, x: Tensor) -> Tensor:
        """The same volume (B, C, D, H, W), in memory as the block reads it best."""
        if narrow_cpu.fits(x, self.conv1.out_channels):
            return x.contiguous()
        return x.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        if narrow_cpu.fits(x, self.conv1.out_channels):
            if self._take_statistics():
                return self._on_cpu(x)
            if not torch.is_grad_enabled():
                return self._predicts_on_cpu(x)
        return self._convolved(x) + self.shortcut(x)

    def _convolved(self, x: Tensor) -> Tensor:
        """Both convolutions with their norms.

        In a compiled network our own kernels take the sums that the norms need as they write;
        uncompiled, torch's own norms are faster.
        """
        if torch.compiler.is_compiling() and self.conv1.out_channels == narrow_conv.CHANNELS:
            narrow = self.conv1.narrow_input(x)
            if narrow is not None and self._take_statistics():
                y, sums = narrow_conv.narrow_conv_sums(narrow, self.conv1.weight)
                y, sums = normalised_convolved(self.norm1, y, sums, self.conv2.weight)
                return relu(normalised(self.norm2, y, sums))
        inner = conv_norm_relu(self.conv1, self.norm1, x)
        return conv_norm_relu(self.conv2, self.norm2, inner)

    def _take_statistics(self) -> bool:
        """Whether both norms normalise by what they are given."""
        return takes_statistics(self.norm1) and takes_statistics(self.norm2)

    def _predicts_on_cpu(self, x: Tensor) -> Tensor:
        """The block with known statistics by our kernels for a CPU; the result is plain."""
        return narrow_cpu.folded_block(
            x,
            [self.conv1.weight, self.conv2.weight],
            [_scale_and_shift(self.conv1, self.norm1), _scale_and_shift(self.conv2, self.norm2)],
            self.shortcut.weight if isinstance(self.shortcut, PointwiseConv) else None,
        )

    def _on_cpu(self, x: Tensor) -> Tensor:
        """The block by our kernels for a CPU; the result is plain, not channels-last."""
        norms: list[Any] = [self.norm1, self.norm2]  # each of `norm_layer`
        by_sample = isinstance(self.norm1, InstanceNorm)
        y, *statistics = narrow_cpu.block(
            x,
            [self.conv1.weight, self.conv2.weight],
            [(norm.weight, norm.bias, norm.eps) for norm in norms],
            self.shortcut.weight if isinstance(self.shortcut, PointwiseConv) else None,
            samples=1 if by_sample else len(x),
        )
        for norm, mean, variance in zip(norms, statistics[::2], statistics[1::2], strict=True):
            if isinstance(norm, nn.BatchNorm3d):
                follow(norm, mean[0], variance[0], y[:, 0].numel())
        return y


class Downsample(nn.Sequential):
    """2x2x2 convolution of stride 2, norm and ReLU, which halve the resolution.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        norm: "batch" or "instance".
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__(
            Conv(in_channels, out_channels, 2, stride=2, bias=False),
            norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve (B, C, D, H, W)."""
        if not narrow_cpu.halves(x):
            return super().forward(x)
        conv, norm, _ = self
        y = conv(x)
        if narrow_cpu.fits(y, y.shape[1]):
            return _norm_relu_on_cpu(norm, y)
        return relu(norm(y.contiguous(memory_format=torch.channels_last_3d)))


class AttentionGate(nn.Module):
    """Additive attention on a skip (Oktay et al. 2018, equations 1 and 2).

        skip * sigmoid(psi(relu(theta(skip) + phi(gating))))

    The gating signal is the decoder's, already at the skip's resolution, so that the weights need
    no interpolation.

    Args:
        channels: C of the skip and of the gating signal.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.theta = PointwiseConv(channels, inner, bias=False)
        self.phi = PointwiseConv(channels, inner)
        self.psi = PointwiseConv(inner, 1)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Weigh the skip; both inputs and the result are (B, C, D, H, W)."""
        return skip * torch.sigmoid(self.psi(F.relu(self.theta(skip) + self.phi(gating))))
