"""The 2x2x2 convolution of stride 2 and its transpose by the kernels for a CPU.

Both have weights (S, L, 2, 2, 2), S being the channels of the small volume and L those of the large
one; the gradient of one is the other.

Legend: B batch, C channels, D, H, W the spatial axes of the small volume.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import fp32, in_parts, run, scratch_size, total
from segmamba.models.narrow_cpu_volumes import tiled


class Halve(torch.autograd.Function):
    """See `narrow_cpu.halve`."""

    @staticmethod
    def forward(ctx: Any, large: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        large = large.contiguous()
        ctx.save_for_backward(large, weight)
        return _halved(large, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dsmall: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (large, weight), dsmall = ctx.saved_tensors, dsmall.contiguous()
        wants_dlarge, wants_dweight, wants_dbias = ctx.needs_input_grad
        return (
            _doubled(dsmall, weight, None) if wants_dlarge else None,
            _weight_gradient(dsmall, large) if wants_dweight else None,
            dsmall.sum((0, 2, 3, 4)) if wants_dbias else None,
        )


class Double(torch.autograd.Function):
    """See `narrow_cpu.double`."""

    @staticmethod
    def forward(ctx: Any, small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        small = small.contiguous()
        ctx.save_for_backward(small, weight)
        return _doubled(small, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlarge: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        small, weight = ctx.saved_tensors
        dlarge = dlarge if dlarge[0].is_contiguous() else dlarge.contiguous()
        wants_dsmall, wants_dweight, wants_dbias = ctx.needs_input_grad
        return (
            _halved(dlarge, weight, None) if wants_dsmall else None,
            _weight_gradient(small, dlarge) if wants_dweight else None,
            dlarge.flatten(2).sum(2).sum(0) if wants_dbias else None,
        )


def _halved(large: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    (batch, larges, *sides), smalls = large.shape, len(weight)
    halves = [side // 2 for side in sides]
    small = large.new_empty(batch, smalls, *halves)
    offset = large.new_zeros(smalls, 1) if bias is None else bias[:, None]
    arguments = (large, tiled(weight.flatten(1)), tiled(offset), small)
    numbers = large.stride(0), larges, smalls, *halves
    in_parts(
        batch * halves[0], lambda first, last: run("halve", (*arguments, *numbers), first, last)
    )
    return small


def _doubled(small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    (batch, smalls, *sides), larges = small.shape, weight.shape[1]
    large = small.new_empty(batch, larges, *(2 * side for side in sides))
    offset = small.new_zeros(larges) if bias is None else fp32(bias)
    arguments = (small, fp32(weight.transpose(0, 1)), offset, large, larges, smalls, *sides)
    in_parts(batch * sides[0], lambda first, last: run("twice", arguments, first, last))
    return large


def _weight_gradient(small: Tensor, large: Tensor) -> Tensor:
    (batch, smalls, *sides), larges = small.shape, large.shape[1]
    size = scratch_size("halve_backward_weights", larges, smalls)

    def work(first: int, last: int) -> Tensor:
        gradient = small.new_zeros((smalls, larges, 2, 2, 2), dtype=torch.float64)
        arguments = (small, large, gradient, small.new_empty(size))
        numbers = large.stride(0), larges, smalls, *sides
        run("halve_backward_weights", (*arguments, *numbers), first, last)
        return gradient

    return total(in_parts(batch * sides[0], work)).float()
