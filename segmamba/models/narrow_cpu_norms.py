"""Norms with ReLU by the kernels for a CPU.

A norm and its ReLU are one pass forward and two backward, besides the pass for the statistics.
These are summed in double precision, and the backward computes the ReLU's sign again from the
convolution's output, the only volume that it keeps.

Legend: B batch, C channels, D, H, W the spatial axes; rows are the B * C volumes, of V voxels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import fp32, in_parts, run


class Sums(NamedTuple):
    """Two sums over each part of the volumes, float64 (B, parts, C)."""

    first: Tensor
    second: Tensor

    @classmethod
    def of_pairs(cls, x: Tensor, channels: int) -> "Sums":
        """Empty ones over the pairs of slices."""
        shape = len(x), -(-x.shape[2] // 2), channels
        return cls(*(x.new_empty(shape, dtype=torch.float64) for _ in range(2)))


class Norm(NamedTuple):
    """A norm with the statistics of the volume that it normalises."""

    rows: Tensor
    """(B * C, 5): scale, shift and mean of each row, and room for slope and offset."""
    mean: Tensor
    """Float64 (B / samples, C)."""
    variance: Tensor
    """As `mean`."""
    inverse: Tensor
    """1 / sqrt(variance + eps), as `mean`."""
    weight: Tensor
    """(C,)."""

    @classmethod
    def of_sums(
        cls, sums: Sums, x: Tensor, weight: Tensor, bias: Tensor, eps: float, samples: int
    ) -> "Norm":
        """The norm of volumes shaped as x by the means and squares of their parts.

        The parts are pairs of slices, or whole volumes.
        """
        (batch, parts, channels), depth, area = sums.first.shape, x.shape[2], x[0, 0, 0].numel()
        voxels = depth * area if parts == 1 else 2 * area
        last_voxels = depth * area - (parts - 1) * voxels
        rows = x.new_empty(batch, channels, 5)
        shape = batch // samples, channels
        mean, variance, inverse = (x.new_empty(shape, dtype=torch.float64) for _ in range(3))
        results = rows, mean, variance, inverse
        numbers = float(eps), samples, parts, channels, voxels, last_voxels
        arguments = *sums, fp32(weight), fp32(bias), *results, *numbers
        run("norm_of_statistics", arguments, 0, shape[0])
        return cls(rows, mean, variance, inverse, weight)

    @classmethod
    def known(cls, scale: Tensor, shift: Tensor, samples: int) -> "Norm":
        """One that does not depend on what it normalises, and has no gradient."""
        rows = torch.stack([scale, shift, shift, shift, shift], 1).float()
        return cls(rows.repeat(samples, 1, 1), shift, shift, scale, scale)

    def backward(self, sums: Sums, voxels: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows with slope and offset, and the gradients of weight and bias."""
        (batch, parts, channels), groups = sums.first.shape, len(self.mean)
        rows, dweight = self.rows.clone(), self.rows.new_empty(channels)
        dbias, known = torch.empty_like(dweight), (self.weight, self.mean, self.inverse)
        numbers = groups, batch // groups, parts, channels, voxels
        run("norm_of_sums", (*sums, *known, rows, dweight, dbias, *numbers), 0, channels)
        return rows, dweight, dbias


class NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums = Sums(*(x.new_empty(len(x), 1, x.shape[1], dtype=torch.float64) for _ in range(2)))
        over_rows("row_statistics", x, x, *sums)
        norm = Norm.of_sums(sums, x, weight, bias, eps, samples)
        y = torch.empty_like(x)
        over_rows("row_norm_relu", x, x, norm.rows, y)
        ctx.save_for_backward(x, *norm)
        ctx.mark_non_differentiable(norm.mean, norm.variance)
        return y, norm.mean, norm.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, *parts), dy = ctx.saved_tensors, dy.contiguous()
        norm = Norm(*parts)
        sums = Sums(*(x.new_empty(len(x), 1, x.shape[1], dtype=torch.float64) for _ in range(2)))
        over_rows("row_sums", x, dy, x, norm.rows, *sums)
        rows, dweight, dbias = norm.backward(sums, x[0, 0].numel())
        dx = torch.empty_like(x)
        over_rows("row_norm_relu_backward", x, dy, x, rows, dx)
        return dx, dweight, dbias, None, None


def over_rows(name: str, like: Tensor, *arguments: Tensor) -> None:
    """Run a kernel over the rows of volumes that are shaped as `like`."""
    numbers = (*arguments, like[0, 0].numel())
    in_parts(like.shape[0] * like.shape[1], lambda first, last: run(name, numbers, first, last))
