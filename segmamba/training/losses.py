"""Dice + cross entropy, for softmax classes or sigmoid regions.

Legend: B batch, K output channels, V = D*H*W voxels; `channels` says what the K channels are.

MONAI's DiceCELoss is not used: with sigmoid=True its cross entropy is still the softmax one, which
makes nested regions compete (1.54 on a perfect prediction where the binary one is 0.00005).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from segmamba.config import LossConfig
from segmamba.models.outputs import Channels, probabilities
from segmamba.training import loss_cpu

Outputs = torch.Tensor | Sequence[torch.Tensor]
"""Logits (B, K, D, H, W), or deep supervision's list of them, full resolution first."""

PATCH_SMOOTHING = 1e-3
"""Smoothing of the Dice of a single patch, as a share of its voxels."""


def dice_loss(
    logits: torch.Tensor, label: torch.Tensor, channels: Channels, *, smooth: float
) -> torch.Tensor:
    """Return the soft Dice loss of a batch.

    1 - mean over the tumour's channels of (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth), as
    Milletari et al. 2016 in its unsquared form. Sums run over the whole batch ("batch Dice") in
    fp32, and the background is left out.

    Args:
        logits: (B, K, D, H, W).
        label: Integer classes, (B, D, H, W).
        channels: The K channels.
        smooth: Added to both sides of the fraction, in voxels.

    Returns:
        The loss, ().
    """
    probability, truth = _foreground(logits, label, channels)
    overlap = (probability * truth).sum((0, 2))
    total = probability.sum((0, 2)) + truth.sum((0, 2))
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def cross_entropy(logits: torch.Tensor, label: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Return the cross entropy of softmax classes, or the mean binary one of regions, in fp32.

    Args:
        logits: (B, K, D, H, W).
        label: Integer classes, (B, D, H, W).
        channels: The K channels.

    Returns:
        The loss, ().
    """
    if channels.are_regions:
        return F.binary_cross_entropy_with_logits(logits.float(), one_hot(label, channels))
    return F.cross_entropy(logits.float(), label.long())


def dice_ce_loss(
    logits: torch.Tensor, label: torch.Tensor, channels: Channels, config: LossConfig
) -> torch.Tensor:
    """Return dice_weight * Dice + ce_weight * cross entropy; a weight of 0 skips its term.

    Args:
        logits: (B, K, D, H, W).
        label: Integer classes, (B, D, H, W).
        channels: The K channels.
        config: The weights, and the smoothing of the Dice.

    Returns:
        The loss, () in fp32.
    """
    if not channels.are_regions and loss_cpu.fits(logits, label):
        return loss_cpu.dice_ce(
            logits,
            label,
            dice_weight=config.dice_weight,
            ce_weight=config.ce_weight,
            smooth=config.dice_smooth,
        )
    loss = logits.new_zeros((), dtype=torch.float32)
    if config.dice_weight:
        loss = loss + config.dice_weight * dice_loss(
            logits, label, channels, smooth=config.dice_smooth
        )
    if config.ce_weight:
        loss = loss + config.ce_weight * cross_entropy(logits, label, channels)
    return loss


def training_loss(
    outputs: Outputs, label: torch.Tensor, channels: Channels, config: LossConfig
) -> torch.Tensor:
    """Return the loss of a network's outputs, with or without deep supervision.

    Each coarser output weighs `deep_supervision_decay` times the one before, and the weights sum
    to 1. The label of a coarser output is the nearest voxel of the full label.

    Args:
        outputs: Logits, or deep supervision's list of them.
        label: Integer classes, (B, D, H, W).
        channels: The K channels.
        config: The weights of the terms and the decay.

    Returns:
        The loss, () in fp32.
    """
    if isinstance(outputs, torch.Tensor):
        return dice_ce_loss(outputs, label, channels, config)
    weights = [config.deep_supervision_decay**level for level in range(len(outputs))]
    losses = [
        dice_ce_loss(logits, _nearest(label, logits.shape[2:]), channels, config)
        for logits in outputs
    ]
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    return total / sum(weights)  # type: ignore[return-value]  # `losses` is never empty


def patch_losses(outputs: Outputs, label: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Return Dice + cross entropy of each patch alone, without gradient: how hard it is.

    The Dice is smoothed by a thousandth of the voxels. A patch without a tumour then costs little
    where little is predicted, and not always 1.

    Args:
        outputs: Logits, or deep supervision's list of them.
        label: Integer classes, (B, D, H, W).
        channels: The K channels.

    Returns:
        The losses, (B,).
    """
    logits = (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).detach()
    probability, truth = _foreground(logits, label, channels)
    smooth = PATCH_SMOOTHING * probability.shape[2]
    dice = (2 * (probability * truth).sum(2) + smooth) / (
        probability.sum(2) + truth.sum(2) + smooth
    )
    entropy = torch.stack(
        [
            cross_entropy(patch_logits[None], patch_label[None], channels)
            for patch_logits, patch_label in zip(logits, label, strict=True)
        ]
    )
    return 1 - dice.mean(1) + entropy


def no_patch_losses(outputs: Outputs, label: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Stand in for `patch_losses` where nobody reads them: zeros, (B,)."""
    return torch.zeros(len(label), device=label.device)


def one_hot(label: torch.Tensor, channels: Channels) -> torch.Tensor:
    """Return a label as one channel per class, or per region.

    Args:
        label: Integer classes, (B, D, H, W).
        channels: The K channels.

    Returns:
        float32 (B, K, D, H, W): 1 where a voxel is of the channel's class, or in its region.
    """
    if channels.are_regions:
        regions = channels.labels.members.values()
        counts = [sum(label == c for c in members) for members in regions]
        # No region is without classes, whose sum would be the number 0.
        return torch.stack(counts, dim=1).float()  # type: ignore[arg-type]  # see above
    classes = torch.arange(len(channels), dtype=label.dtype, device=label.device)
    return (label[:, None] == classes[:, None, None, None]).float()


def _foreground(
    logits: torch.Tensor, label: torch.Tensor, channels: Channels
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (probability, truth), float32 (B, K, V), without the background channel."""
    first = 0 if channels.are_regions else 1
    probability = probabilities(logits, channels)[:, first:]
    truth = one_hot(label, channels)[:, first:]
    return probability.flatten(2), truth.flatten(2)


def _nearest(label: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return a label (B, D, H, W) on a coarser grid."""
    if label.shape[1:] == shape:
        return label
    coarse = F.interpolate(label[:, None].float(), size=shape, mode="nearest")
    return coarse[:, 0].to(label.dtype)
