"""Probabilities of classes and of regions, and the labels that follow from them.

Legend: K channels, in the order of CLASSES or of REGIONS; (x, y, z) any volume.
"""

import torch

from segmamba.data.labels import CLASSES, ED, ET, NCR, REGION_CLASSES, REGIONS


def in_channels(probability, have, want):
    """(K, x, y, z) in the channels `want`; a region's probability is the sum of its classes'. Regions never become classes here."""
    return probability if have == want else region_probabilities(probability)


def region_probabilities(classes):
    """(4, x, y, z) of CLASSES as (3, x, y, z) of REGIONS."""
    return torch.stack([classes[list(members)].sum(0) for members in REGION_CLASSES.values()])


def class_probabilities(regions):
    """(3, x, y, z) of REGIONS as (4, x, y, z) of CLASSES: each class is its region without the next inner one, never below 0, summing to 1."""
    et, tc, wt = regions
    classes = torch.stack([1 - wt, tc - et, wt - tc, et]).clamp_min(0)
    return classes / classes.sum(0)


def background(channels, shape, device):
    """Probabilities (K, x, y, z) that nothing is there."""
    certain = torch.zeros((len(channels), *shape), device=device)
    if channels == CLASSES:
        certain[0] = 1
    return certain


def decide(probability, channels, thresholds=()):
    """Internal classes, uint8 (x, y, z), on the device.

    thresholds: of ET, TC and WT; with (), the likeliest class, or 0.5 where the channels are regions. Inner regions lie within outer ones.
    """
    if channels == CLASSES and not thresholds:
        return probability.argmax(0).to(torch.uint8)
    regions = probability if channels == REGIONS else region_probabilities(probability)
    limits = torch.tensor(thresholds or (0.5,) * len(REGIONS), device=probability.device)
    et, tc, wt = regions > limits[:, None, None, None]
    tc = tc & wt
    return torch.where(et & tc, ET, torch.where(tc, NCR, torch.where(wt, ED, 0))).to(torch.uint8)
