"""Batch and instance norms of a volume whose sums are known: its convolution took them as it wrote.

Legend: B batch, C channels, (D, H, W) the volume, N voxels that share a mean.
"""

from typing import Any

import torch
from torch import Tensor, nn


def takes_statistics(norm: nn.Module) -> bool:
    """Whether `normalised` does what this norm does, in the mode that it is in."""
    if isinstance(norm, nn.InstanceNorm3d):
        return not norm.track_running_stats and norm.affine
    return isinstance(norm, nn.BatchNorm3d) and norm.training and norm.momentum is not None


def normalised(norm: nn.Module, x: Tensor, sums: Tensor) -> Tensor:
    """norm(x), without reading x for its statistics.

    The variance is the mean square less the squared mean, in fp32: its relative error is about 1e-7
    of their ratio, which behind a convolution without a bias is near 1.

    Args:
        norm: A norm for which `takes_statistics` holds; a batch norm follows its running statistics.
        x: (B, C, D, H, W).
        sums: fp32 (B, 2, C), of x and of its square over the voxels of each sample.

    Returns:
        (B, C, D, H, W) in the dtype of x.
    """
    assert isinstance(norm, nn.BatchNorm3d | nn.InstanceNorm3d), "takes_statistics holds"
    count = x[0, 0].numel()
    if isinstance(norm, nn.BatchNorm3d):
        sums, count = sums.sum(0, keepdim=True), count * x.shape[0]
    mean, square = (sums / count).unbind(1)  # (1 or B, C)
    variance = (square - mean.square()).clamp_min(0)
    if isinstance(norm, nn.BatchNorm3d):
        follow(norm, mean[0], variance[0], count)
    scale = torch.rsqrt(variance + norm.eps)
    return _Normalise.apply(x, mean, scale, norm.weight, norm.bias, count)


def follow(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move a batch norm's running statistics as torch does; of `count` values a channel."""
    assert norm.running_mean is not None and norm.running_var is not None, "our norms track both"
    assert norm.momentum is not None, "our norms average with a fixed weight"
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).float(), norm.momentum)


class _Normalise(torch.autograd.Function):
    """(x - mean) * scale * weight + bias, whose gradient knows that mean and scale are of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, count: int
    ) -> Tensor:
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.count = count
        unit = (x.float() - _spread(mean)) * _spread(scale)
        return (unit * _spread(weight) + _spread(bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        x, mean, scale, weight = ctx.saved_tensors
        dy, unit = dy.float(), (x.float() - _spread(mean)) * _spread(scale)
        dbias, dweight = _summed(dy, len(mean)), _summed(dy * unit, len(mean))  # (1 or B, C)
        dx = dy - (_spread(dbias) + unit * _spread(dweight)) / ctx.count
        dx = dx * _spread(scale * weight)
        return dx.to(x.dtype), None, None, dweight.sum(0), dbias.sum(0), None


def _summed(x: Tensor, groups: int) -> Tensor:
    """The sums (groups, C) of x (B, C, D, H, W) over voxels, and samples where groups is 1."""
    return x.sum((0, 2, 3, 4))[None] if groups == 1 else x.sum((2, 3, 4))


def _spread(x: Tensor) -> Tensor:
    """(C,) or (B, C) for voxels."""
    return x[..., None, None, None]
