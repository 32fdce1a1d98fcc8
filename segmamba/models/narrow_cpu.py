"""Narrow 3x3x3 convolutions, norms and ReLUs on a CPU, by the kernels of cpu_kernels.c.

torch puts channels into the lanes of a vector register, of which 8 channels fill half. The kernels
put neighbouring voxels there. Volumes are therefore plain, (B, C, D, H, W) in memory, where the
network's wider levels are channels-last.

A norm and its ReLU are one pass forward and two backward, besides the pass for the statistics.
These are summed in double precision, and the backward computes the ReLU's sign again from the
convolution's output, the only volume that it keeps.

Legend: B batch, C channels, D, H, W the spatial axes; rows are the B * C volumes, of V voxels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import constant, in_parts, row_tiles, run

WIDEST = 8
"""Output channels up to which the kernels are faster than torch's."""
WIDTH_MULTIPLE = 16
"""Voxels along W that fill whole registers on every processor."""
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
    return _Block.apply(x, *first, *second, mixture, (eps1, eps2), samples)


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
    (weight1, weight2), (first, second) = convolutions, (_Norm.known(*n, len(x)) for n in norms)
    z2 = _convolved(_after(first, _convolved(_Source(x), weight1)), weight2)
    return _shortened(x, z2, second, None if shortcut is None else shortcut.flatten(1))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return _convolved(_Source(x), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), gradient = ctx.saved_tensors, _Source(dy.contiguous())
        wants_dx, wants_dweight = ctx.needs_input_grad
        return (
            _convolved(gradient, _turned(weight)) if wants_dx else None,
            _weight_gradient(gradient, _Source(x)) if wants_dweight else None,
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
        sums = _Sums(*(x.new_empty(len(x), 1, x.shape[1], dtype=torch.float64) for _ in range(2)))
        _over_rows("row_statistics", x, x, *sums)
        norm = _Norm.of_sums(sums, [x[0, 0].numel()], weight, bias, eps, samples)
        y = torch.empty_like(x)
        _over_rows("row_norm_relu", x, x, norm.rows, y)
        ctx.save_for_backward(x, *norm)
        ctx.mark_non_differentiable(norm.mean, norm.variance)
        return y, norm.mean, norm.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (x, *parts), dy = ctx.saved_tensors, dy.contiguous()
        norm = _Norm(*parts)
        sums = _Sums(*(x.new_empty(len(x), 1, x.shape[1], dtype=torch.float64) for _ in range(2)))
        _over_rows("row_sums", x, dy, x, norm.rows, *sums)
        rows, dweight, dbias = norm.backward(sums, x[0, 0].numel())
        dx = torch.empty_like(x)
        _over_rows("row_norm_relu_backward", x, dy, x, rows, dx)
        return dx, dweight, dbias, None, None


class _Block(torch.autograd.Function):
    """See `block`.

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
        x, slices = x.contiguous(), _slices(x)
        sums1 = _Sums.of_pairs(x, len(weight1))
        z1 = _convolved(_Source(x), weight1, statistics=sums1)
        norm1 = _Norm.of_sums(sums1, slices, scale1, offset1, eps[0], samples)
        sums2 = _Sums.of_pairs(x, len(weight2))
        z2 = _convolved(_after(norm1, z1), weight2, statistics=sums2)
        norm2 = _Norm.of_sums(sums2, slices, scale2, offset2, eps[1], samples)
        y = _shortened(x, z2, norm2, shortcut)
        ctx.save_for_backward(x, z1, z2, weight1, weight2, shortcut, *norm1, *norm2)
        ctx.mark_non_differentiable(norm1.mean, norm1.variance, norm2.mean, norm2.variance)
        return y, norm1.mean, norm1.variance, norm2.mean, norm2.variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (x, z1, z2, weight1, weight2, shortcut, *parts), dy = ctx.saved_tensors, dy.contiguous()
        norm1, norm2, voxels = _Norm(*parts[:5]), _Norm(*parts[5:]), x[0, 0].numel()
        sums2 = _Sums(*(x.new_empty(len(x), 1, z2.shape[1], dtype=torch.float64) for _ in "12"))
        _over_rows("row_sums", z2, dy, z2, norm2.rows, *sums2)
        rows2, dscale2, doffset2 = norm2.backward(sums2, voxels)
        dz2 = _Source(dy, z2, rows2, BEFORE_NORM)
        dweight2 = _weight_gradient(dz2, _after(norm1, z1))
        sums1 = _Sums.of_pairs(x, z1.shape[1])
        dy1 = _convolved(dz2, _turned(weight2), gradient_of=(z1, norm1, sums1))
        rows1, dscale1, doffset1 = norm1.backward(sums1, voxels)
        dz1 = _Source(dy1, z1, rows1, BEFORE_NORM)
        dx = dshortcut = None
        if ctx.needs_input_grad[0]:
            mixture = None if shortcut is None else shortcut.t()
            dx = _convolved(dz1, _turned(weight1), added=dy, mixture=mixture)
        if shortcut is not None:
            dshortcut = _mixture_weight_gradient(dy, x)
        first = _weight_gradient(dz1, _Source(x)), dscale1, doffset1
        second = dweight2, dscale2, doffset2
        return dx, *first, *second, dshortcut, None, None


PLAIN, AFTER_NORM, BEFORE_NORM = 0, 1, 2
NO_SUMS, STATISTICS, NORM_SUMS = 0, 1, 2


class _Source(NamedTuple):
    """A volume as a convolution reads it: x, relu(norm(x)), or the gradient of z, x being that of
    relu(norm(z))."""

    x: Tensor
    z: Tensor | None = None
    norms: Tensor | None = None
    kind: int = PLAIN


class _Sums(NamedTuple):
    """Two sums over each part of the volumes, float64 (B, parts, C)."""

    first: Tensor
    second: Tensor

    @classmethod
    def of_pairs(cls, x: Tensor, channels: int) -> "_Sums":
        """Empty ones over the pairs of slices."""
        shape = len(x), -(-x.shape[2] // 2), channels
        return cls(*(x.new_empty(shape, dtype=torch.float64) for _ in range(2)))


class _Norm(NamedTuple):
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
        cls,
        sums: _Sums,
        part_voxels: list[int],
        weight: Tensor,
        bias: Tensor,
        eps: float,
        samples: int,
    ) -> "_Norm":
        """The norm of volumes by the means and squares of their parts."""
        means, squares = (t.view(-1, samples * t.shape[1], t.shape[2]) for t in sums)
        counts = means.new_tensor(part_voxels * samples)[:, None]  # (samples * parts, 1)
        count = sum(part_voxels) * samples
        mean = (means * counts).sum(1) / count
        variance = (squares + counts * (means - mean[:, None]) ** 2).sum(1) / count
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        rows = torch.stack([scale, bias - mean * scale, mean, mean, mean], 2).float()
        return cls(rows.repeat_interleave(samples, 0), mean, variance, inverse, weight)

    @classmethod
    def known(cls, scale: Tensor, shift: Tensor, samples: int) -> "_Norm":
        """One that does not depend on what it normalises, and has no gradient."""
        rows = torch.stack([scale, shift, shift, shift, shift], 1).float()
        return cls(rows.repeat(samples, 1, 1), shift, shift, scale, scale)

    def backward(self, sums: _Sums, voxels: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows with slope and offset, and the gradients of weight and bias."""
        samples = len(self.rows) // len(self.mean)
        count = voxels * samples
        g, product = (t.unflatten(0, (-1, samples)).sum((1, 2)) for t in sums)
        slope = -self.weight * self.inverse**3 * product / count
        offset = -self.weight * self.inverse * g / count - slope * self.mean
        rows = self.rows.clone()
        rows[:, :, 3:] = torch.stack([slope, offset], 2).float().repeat_interleave(samples, 0)
        return rows, (product * self.inverse).sum(0).float(), g.sum(0).float()


def _shortened(x: Tensor, z: Tensor, norm: _Norm, shortcut: Tensor | None) -> Tensor:
    """relu(norm(z)) plus x, or plus its 1x1x1 convolution by `shortcut`."""
    if shortcut is not None:
        return _mixed(x, shortcut, None, after=(z, norm))
    y = torch.empty_like(x)
    _over_rows("row_add_norm_relu", x, x, z, norm.rows, y)
    return y


def _after(norm: _Norm, z: Tensor) -> _Source:
    return _Source(z, z, norm.rows, AFTER_NORM)


def _slices(x: Tensor) -> list[int]:
    """The voxels of each pair of slices of one row, of which the last may be one."""
    depth, area = x.shape[2], x[0, 0, 0].numel()
    return [min(2, depth - d) * area for d in range(0, depth, 2)]


def _turned(weight: Tensor) -> Tensor:
    """The weights by which the gradient of a convolution's output gives that of its input."""
    return weight.transpose(0, 1).flip(2, 3, 4)


def _convolved(
    source: _Source,
    weight: Tensor,
    *,
    added: Tensor | None = None,
    mixture: Tensor | None = None,
    statistics: _Sums | None = None,
    gradient_of: tuple[Tensor, _Norm, _Sums] | None = None,
) -> Tensor:
    """The convolution, plus `added` or its 1x1x1 convolution by `mixture`.

    With `statistics` these become the means and squares of the result; with `gradient_of`, a volume
    z and its norm, the sums for the norm's gradient, the result being that of relu(norm(z)).
    """
    x, z, norms, kind = source
    batch, ins, *sides = x.shape
    outs, width = len(weight), sides[-1]
    y, weights = x.new_empty(batch, outs, *sides), _weight_points(weight)
    of, norms_of, sums = None, None, statistics
    if gradient_of:
        of, norms_of, sums = gradient_of[0], gradient_of[1].rows, gradient_of[2]
    sums_kind = NORM_SUMS if gradient_of else STATISTICS if statistics else NO_SUMS
    mixing: tuple[Tensor | None, Tensor | None] = (None, None)
    if mixture is not None:
        mixing = _tiled(mixture), _tiled(x.new_zeros(outs, 1))
    inputs = x, z, norms, weights, added, *mixing, of, norms_of, *(sums or (None, None)), y
    mixed = added.shape[1] if added is not None else 0
    numbers = kind, sums_kind, mixed, ins, outs, *sides
    size = POINTS * ((ins + constant("tile")) * width + 2 * constant("lanes"))
    size += _ring_size(source)

    def work(first: int, last: int) -> None:
        scratch = x.new_empty(size)
        run("conv_forward", (*inputs, scratch, *numbers), first, last)

    in_parts(batch * -(-sides[0] // 2), work)
    return y


def _weight_gradient(dy: _Source, x: _Source) -> Tensor:
    (batch, ins, *sides), outs = x.x.shape, dy.x.shape[1]
    tile, lanes, rows_size = constant("tile"), constant("lanes"), row_tiles(sides[-1]) * sides[-1]
    size = POINTS * ((ins + tile) * rows_size + (ins * 3 * tile + 2) * lanes)
    size += _ring_size(dy) + 4 * ins * sides[1] * sides[2]  # the first ring lies in front

    def work(first: int, last: int) -> Tensor:
        gradient = x.x.new_zeros((POINTS, ins * 3 * outs), dtype=torch.float64)
        volumes = dy.x, dy.z, dy.norms, x.x, x.norms, gradient, x.x.new_empty(size)
        arguments = (*volumes, dy.kind, x.kind, ins, outs, *sides)
        run("conv_backward_weights", arguments, first, last)
        return gradient

    gradient = torch.stack(in_parts(batch * -(-sides[0] // 2), work)).sum(0)
    taps = (WINOGRAD.t() @ gradient).float()  # (3 * 3, ins * 3 * outs)
    return taps.view(3, 3, ins, 3, outs).permute(4, 2, 0, 1, 3)


def _ring_size(source: _Source) -> int:
    """Floats of the slices of a source that are computed as they are read."""
    return 4 * source.x[0, :, 0].numel() if source.kind else 0


def _weight_points(weight: Tensor) -> Tensor:
    """(C', C, 3, 3, 3) -> (tiles of C', POINTS, C, 3, TILE), Winograd's points along D and H."""
    outs, ins = weight.shape[:2]
    points = WINOGRAD_FP32 @ weight.reshape(outs * ins, 9, 3)
    return _tiled(points.view(outs, ins, POINTS, 3).transpose(1, 2).reshape(outs, -1))


def _mixed(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, after: tuple[Tensor, _Norm] | None = None
) -> Tensor:
    """The 1x1x1 convolution, plus relu(norm(z)) of `after`, a volume and its norm."""
    (batch, ins, *sides), outs = x.shape, len(weight)
    y = x.new_empty(batch, outs, *sides)
    offset = x.new_zeros(outs, 1) if bias is None else bias[:, None]
    voxels = x[0, 0].numel()
    z, norms = (after[0], after[1].rows) if after else (None, None)
    arguments = (x, _tiled(weight), _tiled(offset), z, norms, y, ins, outs, voxels)
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
    if len(weight) % tile:
        weight = F.pad(weight, (0, 0, 0, -len(weight) % tile))
    return weight.view(-1, tile, weight.shape[1]).mT.contiguous()


def _over_rows(name: str, like: Tensor, *arguments: Tensor) -> None:
    """Run a kernel over the rows of volumes that are shaped as `like`."""
    numbers = (*arguments, like[0, 0].numel())
    in_parts(like.shape[0] * like.shape[1], lambda first, last: run(name, numbers, first, last))
