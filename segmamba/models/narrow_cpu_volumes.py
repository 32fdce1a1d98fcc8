"""Convolutions of plain volumes by the kernels for a CPU, and their gradients.

Legend: B batch, C channels, D, H, W the spatial axes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models.cpu_library import constant, fp32, in_parts, run, scratch_size, total
from segmamba.models.narrow_cpu_norms import Norm, Sums

_ALONG_D = torch.tensor(
    [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]], dtype=torch.float64
)
_ALONG_H = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
WINOGRAD = torch.kron(_ALONG_D, _ALONG_H)
"""Points of 3x3 weights along D and H, (24, 9): G of F(2, 3) and F(4, 3), Lavin & Gray 2016."""
WINOGRAD_FP32, POINTS = WINOGRAD.float(), len(WINOGRAD)
PLAIN, AFTER_NORM, BEFORE_NORM = 0, 1, 2
NO_SUMS, STATISTICS, NORM_SUMS = 0, 1, 2


class Source(NamedTuple):
    """A volume as a convolution reads it: x, relu(norm(x)), or the gradient of z, x being that of
    relu(norm(z))."""

    x: Tensor
    z: Tensor | None = None
    norms: Tensor | None = None
    kind: int = PLAIN


def after_norm(norm: Norm, z: Tensor) -> Source:
    return Source(z, z, norm.rows, AFTER_NORM)


def convolved(
    source: Source,
    weight: Tensor,
    *,
    turned: bool = False,
    added: Tensor | None = None,
    mixture: Tensor | None = None,
    statistics: Sums | None = None,
    gradient_of: tuple[Tensor, Norm, Sums] | None = None,
) -> Tensor:
    """The convolution, plus `added` or its 1x1x1 convolution by `mixture`.

    Weights that are `turned` make the gradient of a convolution's output that of its input.
    With `statistics` these become the means and squares of the result; with `gradient_of`, a volume
    z and its norm, the sums for the norm's gradient, the result being that of relu(norm(z)).
    """
    x, z, norms, kind = source
    batch, ins, *sides = x.shape
    outs = weight.shape[1 if turned else 0]
    y, weights = x.new_empty(batch, outs, *sides), _weight_points(weight, outs, ins, turned=turned)
    of, norms_of, sums = None, None, statistics
    if gradient_of:
        of, norms_of, sums = gradient_of[0], gradient_of[1].rows, gradient_of[2]
    sums_kind = NORM_SUMS if gradient_of else STATISTICS if statistics else NO_SUMS
    mixing: tuple[Tensor | None, Tensor | None] = (None, None)
    if mixture is not None:
        mixing = tiled(mixture), tiled(x.new_zeros(outs, 1))
    inputs = x, z, norms, weights, added, *mixing, of, norms_of, *(sums or (None, None)), y
    added_channels = added.shape[1] if added is not None else 0
    numbers = kind, sums_kind, added_channels, ins, outs, *sides
    size = scratch_size("conv_forward", ins, *sides[1:])

    def work(first: int, last: int) -> None:
        scratch = x.new_empty(size)
        run("conv_forward", (*inputs, scratch, *numbers), first, last)

    in_parts(batch * -(-sides[0] // 2), work)
    return y


def weight_gradient(dy: Source, x: Source) -> Tensor:
    (batch, ins, *sides), outs = x.x.shape, dy.x.shape[1]
    size = scratch_size("conv_backward_weights", ins, outs, *sides[1:])

    def work(first: int, last: int) -> Tensor:
        gradient = x.x.new_zeros((POINTS, ins * 3 * outs), dtype=torch.float64)
        volumes = dy.x, dy.z, dy.norms, x.x, x.norms, gradient, x.x.new_empty(size)
        arguments = (*volumes, dy.kind, x.kind, ins, outs, *sides)
        run("conv_backward_weights", arguments, first, last)
        return gradient

    gradient = total(in_parts(batch * -(-sides[0] // 2), work))
    taps = (WINOGRAD.t() @ gradient).float()  # (3 * 3, ins * 3 * outs)
    return taps.view(3, 3, ins, 3, outs).permute(4, 2, 0, 1, 3)


def _weight_points(weight: Tensor, outs: int, ins: int, *, turned: bool) -> Tensor:
    """(C', C, 3, 3, 3) -> (tiles of C', POINTS, C, 3, TILE), Winograd's points along D and H."""
    tile = constant("tile")
    tiles = -(-outs // tile)
    points = weight.new_empty(tiles, POINTS, ins, 3, tile)
    run("conv_points", (fp32(weight), WINOGRAD_FP32, points, int(turned), ins, outs), 0, tiles)
    return points


def mixed(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, after: tuple[Tensor, Norm] | None = None
) -> Tensor:
    """The 1x1x1 convolution, plus relu(norm(z)) of `after`, a volume and its norm."""
    (batch, ins, *sides), outs = x.shape, len(weight)
    y = x.new_empty(batch, outs, *sides)
    offset = x.new_zeros(outs, 1) if bias is None else bias[:, None]
    voxels = x[0, 0].numel()
    z, norms = (after[0], after[1].rows) if after else (None, None)
    arguments = (x, tiled(weight), tiled(offset), z, norms, y, ins, outs, voxels)
    in_parts(
        batch * -(-voxels // constant("block_voxels")),
        lambda first, last: run("pointwise_forward", arguments, first, last),
    )
    return y


def mixture_weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    (batch, ins, *_), outs, voxels = x.shape, dy.shape[1], x[0, 0].numel()

    def work(first: int, last: int) -> Tensor:
        gradient = x.new_zeros((outs, ins), dtype=torch.float64)
        arguments = (dy, x, gradient, ins, outs, voxels)
        run("pointwise_backward_weights", arguments, first, last)
        return gradient

    blocks = batch * -(-voxels // constant("block_voxels"))
    return total(in_parts(blocks, work)).float()


def tiled(weight: Tensor) -> Tensor:
    """(C', f) -> (tiles of C', f, TILE), the last tile filled with zeros."""
    weight, tile = fp32(weight), constant("tile")
    if len(weight) % tile:
        weight = F.pad(weight, (0, 0, 0, -len(weight) % tile))
    return weight.view(-1, tile, weight.shape[1]).mT.contiguous()
