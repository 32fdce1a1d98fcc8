"""The convolutional parts: norm, conv block, down- and upsampling, attention gate, checkpointing.

Volumes (B, C, D, H, W) are kept in the channels-last memory format, in which a 1x1x1 convolution is
a matrix product and the tokens of a scan, (B, D * H * W, C), are a view.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z).
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segmamba.models import narrow_conv, narrow_cpu
from segmamba.models.given_statistics import (
    follow,
    normalised,
    normalised_convolved,
    takes_statistics,
)


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The norm that `model.norm` names.

    Args:
        kind: "batch" or "instance".
        channels: C.

    Returns:
        A module from (B, C, D, H, W) to the same shape.
    """
    return {"batch": nn.BatchNorm3d, "instance": InstanceNorm}[kind](channels)


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm, as a batch norm of every sample.

    torch's own leaves the channels-last format, which costs a copy in and one out.

    Args:
        channels: C.
        affine: Whether each channel has a learned scale and offset.
    """

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, D, H, W)."""
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in x.split(1)
        ]
        return torch.cat(samples)


class Conv(nn.Conv3d):
    """A 3-D convolution, by our own kernel where cuDNN is slow.

    On a CPU, torch takes its vectorised kernel for a single sample only above a size; the other
    kernel is 17 times slower. The vectorised one is called directly where no gradient is needed:
    the backward pass would choose for itself again.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        narrow = self.narrow_input(x)
        if narrow is not None:
            return narrow_conv.narrow_conv(narrow, self.weight)
        if self.kernel_size == self.stride == (2, 2, 2) and narrow_cpu.halves(x):
            return narrow_cpu.halve(x, self.weight, self.bias)
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return super().forward(x)
        single_on_cpu = x.shape[0] == 1 and x.device.type == "cpu" and x.dtype == torch.float32
        if not single_on_cpu or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        return torch.mkldnn_convolution(
            x,
            self.weight,
            self.bias,
            self.padding,  # type: ignore[arg-type]  # numbers: no Conv here is built with a word
            self.stride,
            self.dilation,
            self.groups,
        )

    def narrow_input(self, x: Tensor) -> Tensor | None:
        """The input in autocast's dtype where our own kernel takes it.

        Args:
            x: (B, C, D, H, W).

        Returns:
            The same values, or None where torch convolves.
        """
        if not x.is_cuda or self.bias is not None or self.padding != (1, 1, 1):
            return None
        half = x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x
        return half if narrow_conv.fits(half, self.weight) else None


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution, run as the matrix product that it is on channels-last volumes.

    torch's CPU kernel for the convolution is 3 times slower.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        bias: Whether each output channel gets an offset.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        if narrow_cpu.is_plain(x) and narrow_cpu.fits(x, self.out_channels):
            return narrow_cpu.mix(x, self.weight, self.bias)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def relu(x: Tensor) -> Tensor:
    """ReLU in place.

    A compiled network's backward takes the sign from x, which a norm computes again on the fly, and
    reads no stored output.

    Args:
        x: Any shape; overwritten where nothing is compiled.

    Returns:
        max(x, 0).
    """
    if torch.compiler.is_exporting():
        return F.relu(x)
    return torch.where(x <= 0, 0, x) if torch.compiler.is_compiling() else F.relu(x, inplace=True)


class Shift(nn.Module):
    """What is left of a norm that is folded into the convolution before it: an offset.

    Args:
        offset: (C,), one number for each channel.
    """

    offset: Tensor

    def __init__(self, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset)

    def forward(self, x: Tensor) -> Tensor:
        """Add the offsets to x (B, C, D, H, W), in place."""
        return x.add_(self.offset.to(x.dtype)[:, None, None, None])


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
    if isinstance(norm, Shift):
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
        if torch.compiler.is_compiling():
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


class TransposedConv(nn.ConvTranspose3d):
    """The 2x2x2 transposed convolution of stride 2.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve (B, C, D, H, W)."""
        if not narrow_cpu.fits_doubled(x, self.out_channels):
            return super().forward(x, output_size)
        return narrow_cpu.double(x, self.weight, self.bias)


def upsample_layer(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """The layer of `model.upsample`, which doubles the resolution.

    Interpolation comes after the convolution: the two commute, and there are 8 times fewer voxels
    before.

    Args:
        kind: "transposed" or "interpolate".
        in_channels: C of the input.
        out_channels: C of the output.

    Returns:
        A module from (B, C, D, H, W) to (B, C', 2 D, 2 H, 2 W).
    """
    if kind == "transposed":
        return TransposedConv(in_channels, out_channels)
    return nn.Sequential(
        PointwiseConv(in_channels, out_channels), nn.Upsample(scale_factor=2, mode="trilinear")
    )


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


def checkpointed(module: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a module whose activations the backward pass computes again.

    The results are the same, bit for bit. Batch norms do not count the second pass in their
    running statistics; a compiled network's second pass writes none by itself.

    Args:
        module: The module.
        *inputs: What it takes.

    Returns:
        module(*inputs).
    """
    if torch.compiler.is_compiling():
        return checkpoint(module, *inputs, use_reentrant=False)

    def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return contextlib.nullcontext(), _unchanged_statistics(module)

    return checkpoint(module, *inputs, use_reentrant=False, context_fn=passes)


@contextlib.contextmanager
def _unchanged_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch norms normalise as in training without updating their running statistics."""
    norms = [
        (m, m.momentum, m.num_batches_tracked)
        for m in module.modules()
        if isinstance(m, nn.BatchNorm3d)
    ]
    for norm, _, _ in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in norms:
            norm.momentum, norm.num_batches_tracked = momentum, batches
