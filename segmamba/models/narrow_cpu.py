"""Narrow 3x3x3 convolutions, norms and ReLUs on a CPU, by the kernels of cpu_kernels.c.

torch puts channels into the lanes of a vector register, of which 8 channels fill half. The kernels
put neighbouring voxels there. Volumes are therefore plain, (B, C, D, H, W) in memory, where the
network's wider levels are channels-last.

A norm and its ReLU are one pass forward and two backward, besides the pass for the statistics.
These are summed in double precision, and the backward computes the ReLU's sign again from the
convolution's output, the only volume that it keeps.

Legend: B batch, C channels, D, H, W the spatial axes; rows are the B * C volumes, of V voxels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import constant, in_parts, run

WIDEST = 8
"""Output channels up to which the kernels are faster than torch's."""
WIDTH_MULTIPLE = 16
"""Voxels along W that fill whole registers on every processor."""


def fits(x: Tensor, out_channels: int) -> bool:
    """Whether the kernels take a volume.

    Args:
        x: (B, C, D, H, W).
        out_channels: Of the convolution.

    Returns:
        False inside torch.compile, whose graph they are no part of.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and out_channels <= WIDEST
        and x.shape[-1] % WIDTH_MULTIPLE == 0
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
    return _NormRelu.apply(x, weight, bias, eps, samples)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _convolved(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        wants_dx, wants_dweight = ctx.needs_input_grad
        return (
            _convolved(dy, weight.transpose(0, 1).flip(2, 3, 4)) if wants_dx else None,
            _weight_gradient(dy, x) if wants_dweight else None,
        )


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        voxels = x[0, 0].numel()
        row_means, row_squares = (
            x.new_empty(x.shape[:2], dtype=torch.float64) for _ in range(2)
        )
        _over_rows("row_statistics", x, x, row_means, row_squares)
        mean = _grouped(row_means, samples).mean(1)  # (B / samples, C)
        apart = _grouped(row_means, samples) - mean[:, None]
        squares = _grouped(row_squares, samples) + voxels * apart**2
        variance = squares.sum(1) / (samples * voxels)
        scale = weight / (variance + eps).sqrt()
        scales, shifts = (
            t.float().repeat_interleave(samples, 0) for t in (scale, bias - mean * scale)
        )
        y = torch.empty_like(x)
        _over_rows("scale_shift_relu", x, x, scales, shifts, y)
        ctx.save_for_backward(x, weight, mean, variance, scales, shifts)
        ctx.eps, ctx.samples = eps, samples
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dy: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, weight, mean, variance, scales, shifts), dy = ctx.saved_tensors, dy.contiguous()
        samples, count = ctx.samples, ctx.samples * x[0, 0].numel()
        row_sums, row_products = (x.new_empty(x.shape[:2], dtype=torch.float64) for _ in range(2))
        means = mean.float().repeat_interleave(samples, 0)
        _over_rows("relu_norm_sums", x, dy, x, scales, shifts, means, row_sums, row_products)
        sums, products = (_grouped(t, samples).sum(1) for t in (row_sums, row_products))
        inverse = 1 / (variance + ctx.eps).sqrt()
        slope = -weight * inverse**3 * products / count
        offset = -weight * inverse * sums / count - slope * mean
        slopes, offsets = (t.float().repeat_interleave(samples, 0) for t in (slope, offset))
        dx = torch.empty_like(x)
        _over_rows("relu_norm_backward", x, dy, x, scales, shifts, slopes, offsets, dx)
        return dx, (products * inverse).sum(0).float(), sums.sum(0).float(), None, None


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    batch, ins, *sides = x.shape
    outs, tile = len(weight), constant("tile")
    # (tiles, C, 3, 3, 3, TILE), the last tile filled with zeros
    taps = F.pad(weight.reshape(outs, -1), (0, 0, 0, -outs % tile))
    taps = taps.unflatten(0, (-1, tile)).transpose(1, 2).contiguous()
    y = x.new_empty(batch, outs, *sides)
    arguments = (x, taps, y, ins, outs, *sides)
    in_parts(batch * sides[0], lambda first, last: run("conv_forward", arguments, first, last))
    return y


def _weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    (batch, ins, *sides), outs = x.shape, dy.shape[1]
    parts: list[Tensor] = []

    def work(first: int, last: int) -> None:
        gradient = x.new_zeros((outs, ins, 3, 3, 3), dtype=torch.float64)
        scratch = x.new_empty(ins * 27 * constant("tile") * constant("lanes"))
        arguments = (dy, x, gradient, scratch, ins, outs, *sides)
        run("conv_backward_weights", arguments, first, last)
        parts.append(gradient)

    in_parts(batch * sides[0], work)
    return torch.stack(parts).sum(0).float()


def _over_rows(name: str, like: Tensor, *arguments: Tensor) -> None:
    """Run a kernel over the rows of volumes that are shaped as `like`."""
    numbers = (*arguments, like[0, 0].numel())
    in_parts(
        like.shape[0] * like.shape[1], lambda first, last: run(name, numbers, first, last)
    )


def _grouped(rows: Tensor, samples: int) -> Tensor:
    """(B, C) -> (B / samples, samples, C)."""
    return rows.unflatten(0, (-1, samples))
