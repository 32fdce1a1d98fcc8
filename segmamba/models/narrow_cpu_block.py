"""A residual conv block as one function of autograd, by the kernels for a CPU.

Legend: B batch, C channels, D, H, W the spatial axes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.narrow_cpu_norms import Norm, Sums, over_rows
from segmamba.models.narrow_cpu_volumes import (
    BEFORE_NORM,
    Source,
    after_norm,
    convolved,
    mixed,
    mixture_weight_gradient,
    weight_gradient,
)


class Block(torch.autograd.Function):
    """See `narrow_cpu.block`.

    Of the volumes inside only the outputs of the two convolutions are stored. What norms and ReLUs
    make of them the convolutions compute again, a few slices at a time, where they read it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight1: Tensor,
        scale1: Tensor,
        offset1: Tensor,
        weight2: Tensor,
        scale2: Tensor,
        offset2: Tensor,
        shortcut: Tensor | None,
        eps: tuple[float, float],
        samples: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = x.contiguous()
        sums1 = Sums.of_pairs(x, len(weight1))
        z1 = convolved(Source(x), weight1, statistics=sums1)
        norm1 = Norm.of_sums(sums1, x, scale1, offset1, eps[0], samples)
        sums2 = Sums.of_pairs(x, len(weight2))
        z2 = convolved(after_norm(norm1, z1), weight2, statistics=sums2)
        norm2 = Norm.of_sums(sums2, x, scale2, offset2, eps[1], samples)
        y = shortened(x, z2, norm2, shortcut)
        ctx.save_for_backward(x, z1, z2, weight1, weight2, shortcut, *norm1, *norm2)
        ctx.mark_non_differentiable(norm1.mean, norm1.variance, norm2.mean, norm2.variance)
        return y, norm1.mean, norm1.variance, norm2.mean, norm2.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (x, z1, z2, weight1, weight2, shortcut, *parts), dy = ctx.saved_tensors, dy.contiguous()
        norm1, norm2, voxels = Norm(*parts[:5]), Norm(*parts[5:]), x[0, 0].numel()
        sums2 = Sums(*(x.new_empty(len(x), 1, z2.shape[1], dtype=torch.float64) for _ in "12"))
        over_rows("row_sums", z2, dy, z2, norm2.rows, *sums2)
        rows2, dscale2, doffset2 = norm2.backward(sums2, voxels)
        dz2 = Source(dy, z2, rows2, BEFORE_NORM)
        dweight2 = weight_gradient(dz2, after_norm(norm1, z1))
        sums1 = Sums.of_pairs(x, z1.shape[1])
        dy1 = convolved(dz2, weight2, turned=True, gradient_of=(z1, norm1, sums1))
        rows1, dscale1, doffset1 = norm1.backward(sums1, voxels)
        dz1 = Source(dy1, z1, rows1, BEFORE_NORM)
        dx = dshortcut = None
        if ctx.needs_input_grad[0]:
            mixture = None if shortcut is None else shortcut.t()
            dx = convolved(dz1, weight1, turned=True, added=dy, mixture=mixture)
        if shortcut is not None:
            dshortcut = mixture_weight_gradient(dy, x)
        first = weight_gradient(dz1, Source(x)), dscale1, doffset1
        second = dweight2, dscale2, doffset2
        return dx, *first, *second, dshortcut, None, None


def shortened(x: Tensor, z: Tensor, norm: Norm, shortcut: Tensor | None) -> Tensor:
    """relu(norm(z)) plus x, or plus its 1x1x1 convolution by `shortcut`."""
    if shortcut is not None:
        return mixed(x, shortcut, None, after=(z, norm))
    y = torch.empty_like(x)
    over_rows("row_add_norm_relu", x, x, z, norm.rows, y)
    return y
