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

from segmamba.models.cpu_library import constant, in_parts, row_tiles, run

WIDEST = 8
"""Output channels up to which the kernels are faster than torch's."""
WIDTH_MULTIPLE = 16
"""Voxels along W that fill whole registers on every processor."""
_POINTS_OF_THREE = torch.tensor(
    [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64
)
WINOGRAD = torch.kron(_POINTS_OF_THREE, _POINTS_OF_THREE)
"""The points of 3x3 weights, (16, 9): F(2x2, 3x3) of Lavin & Gray 2016, section 4.1."""


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
    return _runs(x) and out_channels <= WIDEST and 2 * x.shape[-1] % WIDTH_MULTIPLE == 0


def is_plain(x: Tensor) -> bool:
    """Whether a volume comes from the kernels, and lies in memory as they take it.

    Args:
        x: (B, C, D, H, W).

    Returns:
        As `fits`.
    """
    return _runs(x) and x.shape[-1] % WIDTH_MULTIPLE == 0 and x.is_contiguous()


def halves(x: Tensor) -> bool:
    """Whether a volume is as the kernels take it, with even sides for `to_blocks`.

    Args:
        x: (B, C, D, H, W).

    Returns:
        As `fits`.
    """
    return is_plain(x) and x.shape[-3] % 2 == x.shape[-2] % 2 == 0


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


def to_blocks(x: Tensor) -> Tensor:
    """Gather the 2x2x2 blocks of which a convolution of stride 2 makes one voxel each.

    Args:
        x: (B, C, D, H, W), plain, with even sides.

    Returns:
        (B, D / 2, H / 2, W / 2, C * 8).
    """
    return _ToBlocks.apply(x)


def from_blocks(blocks: Tensor) -> Tensor:
    """Put blocks back where `to_blocks` gathered them.

    Args:
        blocks: (B, D, H, W, C * 8).

    Returns:
        (B, C, 2 D, 2 H, 2 W), plain.
    """
    return _FromBlocks.apply(blocks)


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


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _mixed(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), dy = ctx.saved_tensors, dy.contiguous()
        wants_dx, wants_dweight, wants_dbias = ctx.needs_input_grad
        return (
            _mixed(dy, weight.t(), None) if wants_dx else None,
            _mixture_weight_gradient(dy, x) if wants_dweight else None,
            dy.flatten(2).sum(2).sum(0) if wants_dbias else None,
        )


class _ToBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _gathered(x.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dblocks: Tensor) -> Tensor:
        return _spread(dblocks.contiguous())


class _FromBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blocks: Tensor) -> Tensor:
        return _spread(blocks.contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        return _gathered(dx.contiguous())


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, samples: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        voxels = x[0, 0].numel()
        row_means, row_squares = (x.new_empty(x.shape[:2], dtype=torch.float64) for _ in range(2))
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
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
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
    outs, width = len(weight), sides[-1]
    y, weights = x.new_empty(batch, outs, *sides), _weight_points(weight)

    def work(first: int, last: int) -> None:
        scratch = x.new_empty(16 * ((ins + constant("tile")) * width + 2 * constant("lanes")))
        run("conv_forward", (x, weights, y, scratch, ins, outs, *sides), first, last)

    in_parts(batch * -(-sides[0] // 2), work)
    return y


def _weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    (batch, ins, *sides), outs = x.shape, dy.shape[1]
    tile, lanes, size = constant("tile"), constant("lanes"), row_tiles(sides[-1]) * sides[-1]

    def work(first: int, last: int) -> Tensor:
        gradient = x.new_zeros((16, ins * 3 * outs), dtype=torch.float64)
        scratch = x.new_empty(16 * ((ins + tile) * size + (ins * 3 * tile + 2) * lanes))
        run("conv_backward_weights", (dy, x, gradient, scratch, ins, outs, *sides), first, last)
        return gradient

    gradient = torch.stack(in_parts(batch * -(-sides[0] // 2), work)).sum(0)
    taps = (WINOGRAD.t() @ gradient).float()  # (3 * 3, ins * 3 * outs)
    return taps.view(3, 3, ins, 3, outs).permute(4, 2, 0, 1, 3)


def _weight_points(weight: Tensor) -> Tensor:
    """(C', C, 3, 3, 3) -> (tiles of C', 16, C, 3, TILE), Winograd's points along D and H."""
    outs, ins = weight.shape[:2]
    points = WINOGRAD.float() @ weight.reshape(outs * ins, 9, 3)
    return _tiled(points.view(outs, ins, 16, 3).transpose(1, 2).reshape(outs, -1))


def _mixed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    (batch, ins, *sides), outs = x.shape, len(weight)
    y = x.new_empty(batch, outs, *sides)
    offset = x.new_zeros(outs, 1) if bias is None else bias[:, None]
    voxels = x[0, 0].numel()
    arguments = (x, _tiled(weight), _tiled(offset), y, ins, outs, voxels)
    in_parts(
        batch * -(-voxels // constant("block_voxels")),
        lambda first, last: run("pointwise_forward", arguments, first, last),
    )
    return y


def _mixture_weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
    (batch, ins, *_), outs, voxels = x.shape, dy.shape[1], x[0, 0].numel()

    def work(first: int, last: int) -> Tensor:
        gradient = x.new_zeros((outs, ins), dtype=torch.float64)
        arguments = (dy, x, gradient, ins, outs, voxels)
        run("pointwise_backward_weights", arguments, first, last)
        return gradient

    blocks = batch * -(-voxels // constant("block_voxels"))
    return torch.stack(in_parts(blocks, work)).sum(0).float()


def _gathered(x: Tensor) -> Tensor:
    batch, channels, *sides = x.shape
    blocks = x.new_empty(batch, *(side // 2 for side in sides), channels * 8)
    arguments = (x, blocks, channels, *sides)
    in_parts(batch * sides[0] // 2, lambda first, last: run("to_blocks", arguments, first, last))
    return blocks


def _spread(blocks: Tensor) -> Tensor:
    batch, *halves, features = blocks.shape
    x = blocks.new_empty(batch, features // 8, *(2 * side for side in halves))
    arguments = (x, blocks, features // 8, *x.shape[2:])
    in_parts(batch * halves[0], lambda first, last: run("from_blocks", arguments, first, last))
    return x


def _tiled(weight: Tensor) -> Tensor:
    """(C', f) -> (tiles of C', f, TILE), the last tile filled with zeros."""
    if weight.dtype != torch.float32:  # the kernels would read other memory
        raise TypeError(f"weights of {weight.dtype} for a volume of {torch.float32}")
    tile = constant("tile")
    return F.pad(weight, (0, 0, 0, -len(weight) % tile)).unflatten(0, (-1, tile)).mT.contiguous()


def _over_rows(name: str, like: Tensor, *arguments: Tensor) -> None:
    """Run a kernel over the rows of volumes that are shaped as `like`."""
    numbers = (*arguments, like[0, 0].numel())
    in_parts(like.shape[0] * like.shape[1], lambda first, last: run(name, numbers, first, last))


def _grouped(rows: Tensor, samples: int) -> Tensor:
    """(B, C) -> (B / samples, samples, C)."""
    return rows.unflatten(0, (-1, samples))
