"""Norms of a volume whose sums are known, because its convolution took them as it wrote.

A compiled network runs these in place of torch's batch and instance norms: they read the volume
once less in the forward pass and twice less in the backward pass.

Legend: B batch, C channels, (D, H, W) the volume; G groups of samples that share a mean: 1 in a
batch norm, B in an instance norm.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segmamba.models import narrow_conv


@dataclass(frozen=True)
class Statistics:
    """What normalises a volume."""

    mean: Tensor
    """fp32 (G, C)."""
    scale: Tensor
    """1 / sqrt(variance + eps), fp32 (G, C)."""
    count: int
    """Voxels that share a mean."""


def takes_statistics(norm: nn.Module) -> bool:
    """Whether `normalised` does what this norm does, in the mode that it is in."""
    if isinstance(norm, nn.InstanceNorm3d):
        return not norm.track_running_stats and norm.affine
    return isinstance(norm, nn.BatchNorm3d) and norm.training and norm.momentum is not None


def normalised(norm: nn.Module, x: Tensor, sums: Tensor) -> Tensor:
    """norm(x), without reading x for its statistics.

    Args:
        norm: A norm for which `takes_statistics` holds; a batch norm's running statistics move.
        x: (B, C, D, H, W).
        sums: fp32 (B, 2, C), of x and of its square over the voxels of each sample.

    Returns:
        (B, C, D, H, W) in the dtype of x.
    """
    found = _statistics(norm, x, sums)
    return _Normalise.apply(x, found.mean, found.scale, norm.weight, norm.bias, found.count)


def normalised_convolved(
    norm: nn.Module, x: Tensor, sums: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """narrow_conv_sums(relu(norm(x)), weight).

    Args:
        norm: As for `normalised`.
        x: (B, 32, D, H, W) in half precision, for which `narrow_conv.fits` holds.
        sums: As for `normalised`.
        weight: (32, 32, 3, 3, 3).

    Returns:
        As `narrow_conv.narrow_conv_sums`.
    """
    found = _statistics(norm, x, sums)
    y, sums = _NormaliseConvolve.apply(
        x, found.mean, found.scale, norm.weight, norm.bias, found.count, weight
    )
    return y, sums.detach()


def follow(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move a batch norm's running statistics as torch does; of `count` values a channel."""
    assert norm.running_mean is not None and norm.running_var is not None, "our norms track both"
    assert norm.momentum is not None, "our norms average with a fixed weight"
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).float(), norm.momentum)


def _statistics(norm: nn.Module, x: Tensor, sums: Tensor) -> Statistics:
    """The statistics of x.

    The variance is the mean square less the squared mean, in fp32: its relative error is about 1e-7
    of their ratio, which behind a convolution without a bias is near 1.
    """
    assert isinstance(norm, nn.BatchNorm3d | nn.InstanceNorm3d), "takes_statistics holds"
    count = x[0, 0].numel()
    if isinstance(norm, nn.BatchNorm3d):
        sums, count = sums.sum(0, keepdim=True), count * x.shape[0]
    mean, square = (sums / count).unbind(1)
    variance = (square - mean.square()).clamp_min(0)
    if isinstance(norm, nn.BatchNorm3d):
        follow(norm, mean[0], variance[0], count)
    return Statistics(mean, torch.rsqrt(variance + norm.eps), count)


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale * weight + bias; mean and scale are of x, as its gradient knows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.count = count
        return _affine(_unit(x, mean, scale), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        x, mean, scale, weight = ctx.saved_tensors
        dy, unit = dy.float(), _unit(x, mean, scale)
        dbias, dweight = _summed(dy, len(mean)), _summed(dy * unit, len(mean))
        dx = _input_gradient(dy, unit, dbias, dweight, scale * weight, ctx.count)
        return dx.to(x.dtype), None, None, dweight.sum(0), dbias.sum(0), None


class _NormaliseConvolve(torch.autograd.Function):
    """_Normalise, ReLU and a narrow convolution, whose gradient's kernel sums for the norm's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        scale: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        count: int,
        weight: Tensor,
    ) -> tuple[Tensor, Tensor]:
        normal = _affine(_unit(x, mean, scale), norm_weight, norm_bias)
        rectified = torch.where(normal <= 0, 0, normal).to(x.dtype)
        ctx.save_for_backward(x, mean, scale, norm_weight, norm_bias, weight, rectified)
        ctx.count = count
        return narrow_conv.narrow_conv_sums(rectified, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, _ = gradients
        x, mean, scale, norm_weight, norm_bias, weight, rectified = ctx.saved_tensors
        groups, slope = len(mean), scale * norm_weight
        factors = torch.stack([slope, norm_bias - mean * slope], 1)  # (G, 2, C)
        dnormal, sums = narrow_conv.input_gradient_through_norm(
            dy, weight, x, factors.expand(len(x), -1, -1)
        )
        dbias, moment = (sums.sum(0, keepdim=True) if groups == 1 else sums).unbind(1)
        dweight = (moment - mean * dbias) * scale
        unit = _unit(x, mean, scale)
        dx = _input_gradient(dnormal.float(), unit, dbias, dweight, slope, ctx.count)
        return (
            dx.to(x.dtype),
            None,
            None,
            dweight.sum(0),
            dbias.sum(0),
            None,
            narrow_conv.weight_gradient(dy, rectified, weight),
        )


def _unit(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x.float() - _spread(mean)) * _spread(scale)


def _affine(unit: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return unit * _spread(weight) + _spread(bias)


def _input_gradient(
    dy: Tensor, unit: Tensor, dbias: Tensor, dweight: Tensor, slope: Tensor, count: int
) -> Tensor:
    """The gradient of a norm's input (Ioffe and Szegedy 2015), from those of weight and bias."""
    return (dy - (_spread(dbias) + unit * _spread(dweight)) / count) * _spread(slope)


def _summed(x: Tensor, groups: int) -> Tensor:
    """The sums (G, C) of x (B, C, D, H, W)."""
    return x.sum((0, 2, 3, 4))[None] if groups == 1 else x.sum((2, 3, 4))


def _spread(x: Tensor) -> Tensor:
    """(C,) or (G, C) for the voxels of a volume."""
    return x[..., None, None, None]
