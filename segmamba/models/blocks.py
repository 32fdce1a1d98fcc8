"""The convolutional parts: norm, conv block, down- and upsampling, attention gate, activation checkpointing.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z). Volumes (B, C, D, H, W) are kept in the channels-last
memory format, in which a 1x1x1 convolution is a matrix product and the tokens of a scan, (B, D * H * W, C), are a view.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from segmamba.models import narrow_conv


def norm_layer(kind, channels):
    return {"batch": nn.BatchNorm3d, "instance": InstanceNorm}[kind](channels)


class InstanceNorm(nn.InstanceNorm3d):
    """Affine instance norm as a batch norm of every sample: torch's own leaves the channels-last format, which costs a copy either way."""

    def __init__(self, channels):
        super().__init__(channels, affine=True)

    def forward(self, x):
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for sample in x.split(1)
        ]
        return torch.cat(samples)


class Conv(nn.Conv3d):
    """A 3-D convolution, by our own kernel where cuDNN is slow.

    Of a single sample, torch takes its vectorised CPU kernel only above a size; the other is 17 times slower.
    """

    def forward(self, x):
        narrow = self.narrow_input(x)
        if narrow is not None:
            return narrow_conv.narrow_conv(narrow, self.weight)
        single_on_cpu = (
            x.shape[0] == 1
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and torch.backends.mkldnn.is_available()
        )
        if (
            not single_on_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling()
        ):  # its backward would choose for itself again
            return super().forward(x)
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )

    def narrow_input(self, x):
        """x in autocast's type where our own kernel takes it, else None."""
        if not x.is_cuda or self.bias is not None or self.padding != (1, 1, 1):
            return None
        half = x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x
        return half if narrow_conv.fits(half, self.weight) else None


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution, run as the matrix product that it is on channels-last volumes: torch's CPU kernel for it is 3 times slower."""

    def __init__(self, in_channels, out_channels, *, bias=True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x):
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


def relu(x):
    """ReLU in place. Compiled, its backward takes the sign from x, which a norm computes again on the fly, and reads no stored output."""
    return torch.where(x <= 0, 0, x) if torch.compiler.is_compiling() else F.relu(x, inplace=True)


class Shift(nn.Module):
    """What is left of a norm that is folded into the convolution before it: x (B, C, D, H, W) plus an offset (C,) for each channel, in place."""

    def __init__(self, offset):
        super().__init__()
        self.register_buffer("offset", offset)

    def forward(self, x):
        return x.add_(self.offset.to(x.dtype)[:, None, None, None])


def conv_norm_relu(conv, norm, x):
    """relu(norm(conv(x))); one pass over memory where the norm is folded and our own kernel convolves."""
    narrow = conv.narrow_input(x) if isinstance(norm, Shift) else None
    return (
        relu(norm(conv(x)))
        if narrow is None
        else narrow_conv.narrow_conv_relu(narrow, conv.weight, norm.offset)
    )


class ConvBlock(nn.Module):
    """Twice (3x3x3 convolution, norm, ReLU), plus the input; a 1x1x1 convolution fits the input's channels where they differ."""

    def __init__(self, in_channels, out_channels, norm):
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

    def forward(self, x):
        inner = conv_norm_relu(self.conv1, self.norm1, x)
        return conv_norm_relu(self.conv2, self.norm2, inner) + self.shortcut(x)


class Downsample(nn.Sequential):
    """Halves the resolution: 2x2x2 convolution of stride 2, norm, ReLU."""

    def __init__(self, in_channels, out_channels, norm):
        super().__init__(
            Conv(in_channels, out_channels, 2, stride=2, bias=False),
            norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
        )


def upsample_layer(kind, in_channels, out_channels):
    """Doubles the resolution. Convolution before interpolation: the two commute, and there are 8 times fewer voxels before."""
    if kind == "transposed":
        return nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)
    return nn.Sequential(
        PointwiseConv(in_channels, out_channels), nn.Upsample(scale_factor=2, mode="trilinear")
    )


class AttentionGate(nn.Module):
    """skip * sigmoid(psi(relu(theta(skip) + phi(gating)))): additive attention (Oktay et al. 2018, equations 1 and 2).

    The gating signal is the decoder's, already at the skip's resolution, so that the weights need no interpolation.
    """

    def __init__(self, channels):
        super().__init__()
        inner = max(channels // 2, 1)
        self.theta = PointwiseConv(channels, inner, bias=False)
        self.phi = PointwiseConv(channels, inner)
        self.psi = PointwiseConv(inner, 1)

    def forward(self, skip, gating):
        return skip * torch.sigmoid(self.psi(F.relu(self.theta(skip) + self.phi(gating))))


def checkpointed(module, *inputs):
    """module(*inputs), whose activations are dropped and computed again in the backward pass; same results, bit for bit.

    A compiled network's second pass writes no statistics of itself.
    """
    if torch.compiler.is_compiling():
        return checkpoint(module, *inputs, use_reentrant=False)
    again = lambda: (contextlib.nullcontext(), _unchanged_statistics(module))  # noqa: E731
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=again)


@contextlib.contextmanager
def _unchanged_statistics(module):
    """Batch norms normalise as in training, but a second forward pass does not count a second time in their running statistics."""
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
