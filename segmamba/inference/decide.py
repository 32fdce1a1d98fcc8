"""Probabilities of classes and of regions, and the labels that follow from them.

The regions are nested, ET in TC in WT (Menze et al. 2015, section IV), and made of the classes:

    p(ET) = p_ET,   p(TC) = p_NCR + p_ET,   p(WT) = p_NCR + p_ED + p_ET

Legend: K channels, in the order of CLASSES or of REGIONS; (x, y, z) any volume.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segmamba.data.labels import CLASSES, ED, ET, NCR, REGION_CLASSES, REGIONS

HALF = 0.5
"""The threshold of a region where none is set: it is likelier than not."""


def in_channels(probability: Tensor, have: tuple[str, ...], want: tuple[str, ...]) -> Tensor:
    """Bring probabilities into the wanted channels; regions never become classes here.

    Args:
        probability: Float (K, x, y, z).
        have: The names of its channels.
        want: The wanted names: the same, or REGIONS.

    Returns:
        Float (K', x, y, z); a region's probability is the sum of its classes'.
    """
    return probability if have == want else region_probabilities(probability)


def region_probabilities(classes: Tensor) -> Tensor:
    """Sum the probabilities of classes over each region.

    Args:
        classes: Float (4, x, y, z) in the order of CLASSES.

    Returns:
        Float (3, x, y, z) in the order of REGIONS.
    """
    return torch.stack([classes[list(members)].sum(0) for members in REGION_CLASSES.values()])


def class_probabilities(regions: Tensor) -> Tensor:
    """Probabilities of classes from those of nested regions.

    Each class is its region without the next inner one, never below 0, and all are scaled to sum
    to 1:

        p ~ max(0, (1 - WT, TC - ET, WT - TC, ET))

    This inverts `region_probabilities` where the regions are nested.

    Args:
        regions: Float (3, x, y, z) in the order of REGIONS.

    Returns:
        Float (4, x, y, z) in the order of CLASSES.
    """
    et, tc, wt = regions
    classes = torch.stack([1 - wt, tc - et, wt - tc, et]).clamp_min(0)
    return classes / classes.sum(0)


def background(channels: tuple[str, ...], shape: Sequence[int], device: torch.device) -> Tensor:
    """Probabilities that nothing is there.

    Args:
        channels: CLASSES or REGIONS.
        shape: Voxels along x, y and z.
        device: Where the result lies.

    Returns:
        float32 (K, x, y, z), of 0 and 1.
    """
    certain = torch.zeros((len(channels), *shape), device=device)
    if channels == CLASSES:
        certain[0] = 1
    return certain


def decide(
    probability: Tensor, channels: tuple[str, ...], thresholds: tuple[float, ...] = ()
) -> Tensor:
    """Decide the class of each voxel.

    Without thresholds, classes compete and the likeliest wins. Regions, and classes with
    thresholds, are decided region by region, and a voxel of an inner region belongs to it only
    where it belongs to the outer ones as well.

    Args:
        probability: Float (K, x, y, z).
        channels: CLASSES or REGIONS, the names of the K channels.
        thresholds: The probabilities above which a voxel belongs to ET, TC and WT; () is 0.5 each
            for regions.

    Returns:
        Internal classes, uint8 (x, y, z), on the same device.
    """
    if channels == CLASSES and not thresholds:
        return probability.argmax(0).to(torch.uint8)
    regions = probability if channels == REGIONS else region_probabilities(probability)
    limits = torch.tensor(thresholds or (HALF,) * len(REGIONS), device=probability.device)
    et, tc, wt = regions > limits[:, None, None, None]
    tc = tc & wt
    return torch.where(et & tc, ET, torch.where(tc, NCR, torch.where(wt, ED, 0))).to(torch.uint8)
