"""Narrow convolutions, norms and ReLUs on a CPU: which volumes our kernels take, and what for.

torch puts channels into the lanes of a vector register, of which 8 channels fill half. The kernels
of cpu_kernels/ put neighbouring voxels there. Volumes are therefore plain, (B, C, D, H, W) in
memory, where the network's wider levels are channels-last.

Legend: B batch, C channels, D, H, W the spatial axes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import constant
from segmamba.models.narrow_cpu_block import Block, shortened
from segmamba.models.narrow_cpu_halving import Double, Halve
from segmamba.models.narrow_cpu_norms import Norm, NormRelu
from segmamba.models.narrow_cpu_volumes import (
    Source,
    after_norm,
    convolved,
    mixed,
    mixture_weight_gradient,
    weight_gradient,
)

WIDEST = 16
"""Output channels up to which the kernels are faster than torch's."""
WIDTH_MULTIPLE = 16
"""Voxels along W that fill whole registers on every processor."""


def fits(x: Tensor, out_channels: int) -> bool:
    """Whether the kernels take a volume for a convolution that keeps its sides.

    Args:
        x: (B, C, D, H, W).
        out_channels: Of the convolution.

    Returns:
        False inside torch.compile, whose graph they are no part of.
    """
    return _runs(x) and out_channels <= WIDEST and x.shape[-1] % WIDTH_MULTIPLE == 0


def fits_doubled(x: Tensor, out_channels: int) -> bool:
    """Whether what an upsampling makes of a volume goes to the kernels.

    Args:
        x: (B, C, D, H, W).
        out_channels: Of the upsampling.

    Returns:
        As `fits`.
    """
    large_fits = out_channels <= WIDEST and 2 * x.shape[-1] % WIDTH_MULTIPLE == 0
    return _runs(x) and large_fits and _fills_registers(x.shape[-2], x.shape[-1])


def is_plain(x: Tensor) -> bool:
    """Whether a volume comes from the kernels, and lies in memory as they take it.

    Args:
        x: (B, C, D, H, W).

    Returns:
        As `fits`.
    """
    return _runs(x) and x.shape[-1] % WIDTH_MULTIPLE == 0 and x.is_contiguous()


def halves(x: Tensor) -> bool:
    """Whether a volume comes from the kernels and has sides that `halve` takes.

    Args:
        x: (B, C, D, H, W).

    Returns:
        As `fits`.
    """
    depth, height, width = x.shape[-3:]
    even = depth % 2 == height % 2 == 0
    return is_plain(x) and even and _fills_registers(height // 2, width // 2)


def _fills_registers(height: int, width: int) -> bool:
    """Whether the rows of a slice, at half the resolution, do together."""
    return width % WIDTH_MULTIPLE == 0 or height % 2 == 0


def _runs(x: Tensor) -> bool:
    """Whether it is a real volume of fp32.

    The kernels would read the memory that a fake one lacks. Autocast takes the weights in another
    precision than theirs.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and constant("lanes") > 0
    )


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """The 3x3x3 convolution with a padding of 1.

    Args:
        x: (B, C, D, H, W) that `fits`.
        weight: (C', C, 3, 3, 3).

    Returns:
        (B, C', D, H, W), plain.
    """
    return _Convolution.apply(x, weight)


def mix(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 1x1x1 convolution.

    Args:
        x: (B, C, D, H, W) that `fits`.
        weight: (C', C, 1, 1, 1).
        bias: (C',).

    Returns:
        (B, C', D, H, W), plain.
    """
    return _Mixture.apply(x, weight.flatten(1), bias)


def halve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 2x2x2 convolution of stride 2.

    Args:
        x: (B, C, D, H, W) that it `halves`.
        weight: (C', C, 2, 2, 2).
        bias: (C',).

    Returns:
        (B, C', D / 2, H / 2, W / 2), plain.
    """
    return Halve.apply(x, weight, bias)


def double(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The transposed 2x2x2 convolution of stride 2.

    Args:
        x: (B, C, D, H, W) that `fits_doubled`.
        weight: (C, C', 2, 2, 2).
        bias: (C',).

    Returns:
        (B, C', 2 D, 2 H, 2 W), plain.
    """
    return Double.apply(x, weight, bias)


def norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise by the statistics of x itself, then ReLU.

    Args:
        x: (B, C, D, H, W), plain, that `fits`.
        weight: (C,), the norm's scale.
        bias: (C,), the norm's offset.
        eps: Added to the variance.
        samples: Over how many samples statistics are taken: B of a batch norm, 1 of an instance
            norm.

    Returns:
        max(weight (x - mean) / sqrt(variance + eps) + bias, 0), and mean and variance, float64
        (B / samples, C).
    """
    return NormRelu.apply(x, weight, bias, eps, samples)


def block(
    x: Tensor,
    convolutions: Sequence[Tensor],
    norms: Sequence[tuple[Tensor, Tensor, float]],
    shortcut: Tensor | None,
    *,
    samples: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Twice (3x3x3 convolution, norm by the statistics of its output, ReLU), plus the input.

    Args:
        x: (B, C, D, H, W) that `fits`.
        convolutions: The weights (C', C, 3, 3, 3) and (C', C', 3, 3, 3).
        norms: Scale (C',), offset (C',) and eps of the two norms.
        shortcut: (C', C, 1, 1, 1), which fits the input's channels; None where C = C'.
        samples: As in `norm_relu`.

    Returns:
        (B, C', D, H, W), plain, and mean and variance of the first norm and of the second, float64
        (B / samples, C').
    """
    (scale1, offset1, eps1), (scale2, offset2, eps2) = norms
    weight1, weight2 = convolutions
    mixture = None if shortcut is None else shortcut.flatten(1)
    first, second = (weight1, scale1, offset1), (weight2, scale2, offset2)
    return Block.apply(x, *first, *second, mixture, (eps1, eps2), samples)


def folded_block(
    x: Tensor,
    convolutions: Sequence[Tensor],
    norms: Sequence[tuple[Tensor, Tensor]],
    shortcut: Tensor | None,
) -> Tensor:
    """Twice (3x3x3 convolution, known scale and shift, ReLU), plus the input; without gradient.

    Args:
        x: (B, C, D, H, W) that `fits`.
        convolutions: As in `block`.
        norms: Scale (C',) and shift (C',) after each convolution.
        shortcut: As in `block`.

    Returns:
        (B, C', D, H, W), plain.
    """
    x = x.contiguous()
    (weight1, weight2), (first, second) = convolutions, (Norm.known(*n, len(x)) for n in norms)
    z2 = convolved(after_norm(first, convolved(Source(x), weight1)), weight2)
    return shortened(x, z2, second, None if shortcut is None else shortcut.flatten(1))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return convolved(Source(x), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), gradient = ctx.saved_tensors, Source(dy.contiguous())
        wants_dx, wants_dweight = ctx.needs_input_grad
        return (
            convolved(gradient, weight, turned=True) if wants_dx else None,
            weight_gradient(gradient, Source(x)) if wants_dweight else None,
        )


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return mixed(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        wants_dx, wants_dweight, wants_dbias = ctx.needs_input_grad
        return (
            mixed(dy, weight.t(), None) if wants_dx else None,
            mixture_weight_gradient(dy, x) if wants_dweight else None,
            dy.flatten(2).sum(2).sum(0) if wants_dbias else None,
        )
