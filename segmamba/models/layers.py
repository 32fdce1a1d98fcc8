"""Layers by their fastest kernels: norms, convolutions, up- and downsampling, ReLU.

Volumes (B, C, D, H, W) are kept in the channels-last memory format, in which a 1x1x1 convolution is
a matrix product and the tokens of a scan, (B, D * H * W, C), are a view.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.models import narrow_conv, narrow_cpu


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
            y = narrow_conv.narrow_conv(narrow, self.weight)
            return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None, None]
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
        if not x.is_cuda or self.padding != (1, 1, 1) or self.stride != (1, 1, 1):
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
