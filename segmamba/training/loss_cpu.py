"""Dice + cross entropy of softmax classes on a CPU: one pass forward and one backward.

torch's operators take about twenty passes over the logits. The kernels of cpu_kernels/ keep of a
voxel's softmax only the sums, and the backward pass computes it again.

Legend: B batch, K classes with the background, V = D*H*W voxels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segmamba.models.cpu_library import constant, in_parts, run

VOXELS_MULTIPLE = 16
"""Voxels that fill whole registers on every processor."""


def fits(logits: Tensor, label: Tensor) -> bool:
    """Whether the kernels take these logits and labels.

    Args:
        logits: (B, K, D, H, W).
        label: (B, D, H, W).

    Returns:
        False inside torch.compile, whose graph they are no part of.
    """
    return (
        not torch.compiler.is_compiling()
        and type(logits) is Tensor
        and logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and label.dtype == torch.uint8
        and logits.is_contiguous()
        and logits[0, 0].numel() % VOXELS_MULTIPLE == 0
        and constant("lanes") > 0
        and logits.shape[1] <= constant("most_classes")
    )


def dice_ce(
    logits: Tensor, label: Tensor, *, dice_weight: float, ce_weight: float, smooth: float
) -> Tensor:
    """dice_weight * Dice loss + ce_weight * cross entropy, as `losses` defines them.

    Args:
        logits: (B, K, D, H, W) that `fits`; class 0 is the background.
        label: Classes, uint8 (B, D, H, W).
        dice_weight: Weight of the Dice loss.
        ce_weight: Weight of the cross entropy.
        smooth: Added to both sides of the Dice's fraction, in voxels.

    Returns:
        The loss, ().
    """
    return _DiceCE.apply(logits, label.contiguous(), dice_weight, ce_weight, smooth)


class _DiceCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, dice_weight: float, ce_weight: float, smooth: float
    ) -> Tensor:
        classes = logits.shape[1]
        blocks = _blocks(logits)
        parts = torch.empty(blocks, 3 * classes + 1, dtype=torch.float64)
        _over_blocks("dice_ce_sums", logits, label, parts)
        sums = parts.sum(0)
        both, predicted, true = sums[1:].view(classes, 3).unbind(1)
        if true.sum() < label.numel():
            raise IndexError(f"the label holds class {int(label.max())} of {classes} classes")
        factors = torch.zeros(1 + 2 * classes, dtype=torch.float64)
        loss = torch.zeros((), dtype=torch.float64)
        if dice_weight:  # of all classes but the background
            dice, total = 2 * both[1:] + smooth, predicted[1:] + true[1:] + smooth
            loss += dice_weight * (1 - (dice / total).mean())
            share = dice_weight / (classes - 1)
            factors[3::2], factors[4::2] = -share * 2 / total, share * dice / total**2
        if ce_weight:
            factors[0] = ce_weight / label.numel()
            loss += factors[0] * sums[0]
        ctx.save_for_backward(logits, label, factors)
        return loss.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, label, factors = ctx.saved_tensors
        dlogits = torch.empty_like(logits)
        _over_blocks("dice_ce_backward", logits, label, (factors * dloss).float(), dlogits)
        return dlogits, None, None, None, None


def _blocks(logits: Tensor) -> int:
    return len(logits) * -(-logits[0, 0].numel() // constant("block_voxels"))


def _over_blocks(name: str, logits: Tensor, *others: Tensor) -> None:
    arguments = (logits, *others, logits.shape[1], logits[0, 0].numel())
    in_parts(_blocks(logits), lambda first, last: run(name, arguments, first, last))
