"""Dice + cross entropy, for softmax classes or sigmoid regions.

Legend: B batch, K output channels, V = D*H*W voxels; `channels` is CLASSES or REGIONS, as segmamba.models.outputs has them.

MONAI's DiceCELoss is not used: with sigmoid=True its cross entropy is still the softmax one, which makes nested regions compete
(1.54 on a perfect prediction where the binary one is 0.00005).
"""

import torch
import torch.nn.functional as F

from segmamba.data.labels import REGION_CLASSES, REGIONS
from segmamba.models.outputs import probabilities

PATCH_SMOOTHING = 1e-3  # of a patch's voxels


def dice_loss(logits, label, channels, *, smooth):
    """1 - mean over the tumour's channels of (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth).

    Sums run over the whole batch ("batch Dice") and the background is left out. The sums are kept in fp32.
    logits: (B, K, D, H, W); label: integer (B, D, H, W). Milletari et al. 2016 in its unsquared form.
    """
    probability, truth = _foreground(logits, label, channels)
    overlap = (probability * truth).sum((0, 2))
    total = probability.sum((0, 2)) + truth.sum((0, 2))
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def cross_entropy(logits, label, channels):
    """Of softmax classes; of regions the binary one, averaged over regions. Always fp32."""
    if channels == REGIONS:
        return F.binary_cross_entropy_with_logits(logits.float(), one_hot(label, channels))
    return F.cross_entropy(logits.float(), label.long())


def dice_ce_loss(logits, label, channels, config):
    """dice_weight * Dice + ce_weight * cross entropy. `config` is a LossConfig; a weight of 0 skips its term."""
    loss = logits.new_zeros((), dtype=torch.float32)
    if config.dice_weight:
        loss = loss + config.dice_weight * dice_loss(
            logits, label, channels, smooth=config.dice_smooth
        )
    if config.ce_weight:
        loss = loss + config.ce_weight * cross_entropy(logits, label, channels)
    return loss


def training_loss(outputs, label, channels, config):
    """`dice_ce_loss` of logits, or of deep supervision's list of logits, full resolution first.

    Each coarser output weighs `deep_supervision_decay` times the one before, the weights sum to 1, and its label is the nearest voxel of
    the full one.
    """
    if torch.is_tensor(outputs):
        return dice_ce_loss(outputs, label, channels, config)
    weights = [config.deep_supervision_decay**level for level in range(len(outputs))]
    losses = [
        dice_ce_loss(logits, _nearest(label, logits.shape[2:]), channels, config)
        for logits in outputs
    ]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def patch_losses(outputs, label, channels):
    """(B,): Dice + cross entropy of each patch alone, without gradient: how hard it is. `outputs` as in `training_loss`.

    The Dice is smoothed by a thousandth of the voxels: without a tumour it costs little where little is found, and not always 1.
    """
    logits = (outputs if torch.is_tensor(outputs) else outputs[0]).detach()
    probability, truth = _foreground(logits, label, channels)
    smooth = PATCH_SMOOTHING * probability.shape[2]
    dice = (2 * (probability * truth).sum(2) + smooth) / (
        probability.sum(2) + truth.sum(2) + smooth
    )
    entropy = torch.stack(
        [
            cross_entropy(one[None], its[None], channels)
            for one, its in zip(logits, label, strict=True)
        ]
    )
    return 1 - dice.mean(1) + entropy


def no_patch_losses(outputs, label, channels):
    """The null object of `patch_losses`: (B,) zeros."""
    return torch.zeros(len(label), device=label.device)


def one_hot(label, channels):
    """Integer classes (B, D, H, W) as float32 (B, K, D, H, W): 1 where a voxel is of the channel's class, or in its region."""
    if channels == REGIONS:
        return torch.stack(
            [sum(label == c for c in members) for members in REGION_CLASSES.values()], dim=1
        ).float()
    return F.one_hot(label.long(), len(channels)).movedim(-1, 1).float()


def _foreground(logits, label, channels):
    """(probability, truth), float32 (B, K, V), of the channels that are not background."""
    first = 0 if channels == REGIONS else 1
    return probabilities(logits, channels)[:, first:].flatten(2), one_hot(label, channels)[
        :, first:
    ].flatten(2)


def _nearest(label, shape):
    """label (B, D, H, W) on a coarser grid."""
    return (
        label
        if label.shape[1:] == shape
        else F.interpolate(label[:, None].float(), size=shape, mode="nearest")[:, 0].to(label.dtype)
    )
