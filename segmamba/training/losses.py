"""Dice + cross entropy for softmax classes. Legend: B batch, K classes, V = D*H*W voxels."""

import torch
import torch.nn.functional as F


def dice_loss(logits, label, *, smooth):
    """1 - mean over the tumour classes of (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth).

    Sums run over the whole batch ("batch Dice") and class 0, the background, is left out. The sums are kept in fp32.
    logits: (B, K, D, H, W); label: integer (B, D, H, W). Mission, section 3.1; Milletari et al. 2016 in its unsquared form.
    """
    probability = logits.float().softmax(1).flatten(2)  # (B, K, V)
    truth = F.one_hot(label.flatten(1).long(), logits.shape[1]).movedim(-1, 1).to(probability.dtype)  # (B, K, V)
    overlap = (probability * truth).sum((0, 2))
    total = probability.sum((0, 2)) + truth.sum((0, 2))
    return 1 - ((2 * overlap + smooth) / (total + smooth))[1:].mean()


def dice_ce_loss(logits, label, config):
    """dice_weight * Dice + ce_weight * cross entropy. `config` is a LossConfig; a weight of 0 skips its term."""
    loss = logits.new_zeros((), dtype=torch.float32)
    if config.dice_weight:
        loss = loss + config.dice_weight * dice_loss(logits, label, smooth=config.dice_smooth)
    if config.ce_weight:
        loss = loss + config.ce_weight * F.cross_entropy(logits.float(), label.long())
    return loss


def training_loss(outputs, label, config):
    """`dice_ce_loss` of logits, or of deep supervision's list of logits, full resolution first.

    Each coarser output weighs half the one before, the weights sum to 1, and its label is the nearest voxel of the full one
    (nnU-Net's choice; Isensee et al. 2021, supplement).
    """
    if torch.is_tensor(outputs):
        return dice_ce_loss(outputs, label, config)
    weights = [0.5**level for level in range(len(outputs))]
    losses = [dice_ce_loss(logits, _nearest(label, logits.shape[2:]), config) for logits in outputs]
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


def _nearest(label, shape):
    """label (B, D, H, W) on a coarser grid."""
    return label if label.shape[1:] == shape else F.interpolate(label[:, None].float(), size=shape, mode="nearest")[:, 0].to(label.dtype)
