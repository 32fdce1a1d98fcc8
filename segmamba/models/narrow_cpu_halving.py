"""Volumes at half the resolution, and back, by the kernels for a CPU.

Legend: B batch, C channels, D, H, W the spatial axes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import in_parts, run


class ToBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gathered(x.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dblocks: Tensor) -> Tensor:
        return spread(dblocks.contiguous())


class FromBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor) -> Tensor:
        return spread(blocks.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        return gathered(dx.contiguous())


def gathered(x: Tensor) -> Tensor:
    batch, channels, *sides = x.shape
    blocks = x.new_empty(batch, *(side // 2 for side in sides), channels * 8)
    arguments = (x, blocks, channels, *sides)
    in_parts(batch * sides[0] // 2, lambda first, last: run("to_blocks", arguments, first, last))
    return blocks


def spread(blocks: Tensor) -> Tensor:
    batch, *halves, features = blocks.shape
    x = blocks.new_empty(batch, features // 8, *(2 * side for side in halves))
    arguments = (x, blocks, features // 8, *x.shape[2:])
    in_parts(batch * halves[0], lambda first, last: run("from_blocks", arguments, first, last))
    return x
