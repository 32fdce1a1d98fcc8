"""Probabilities of classes and of regions, and the labels that follow from them.

Regions are sums of classes, and inner ones lie within outer ones (Menze et al. 2015, section IV).
For the three classes of glioma:

    p(ET) = p_ET,   p(TC) = p_NCR + p_ET,   p(WT) = p_NCR + p_ED + p_ET

Legend: K channels, classes or regions; R regions of the label set; (x, y, z) any volume.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segmamba.data.label_sets import LabelSet
from segmamba.models.outputs import Channels

HALF = 0.5
"""The threshold of a region where none is set: it is likelier than not."""


def in_channels(probability: Tensor, have: Channels, want: Channels) -> Tensor:
    """Bring probabilities into the wanted channels; regions never become classes here.

    Args:
        probability: Float (K, x, y, z).
        have: Its channels.
        want: The wanted channels: the same, or the regions of the same label set.

    Returns:
        Float (K', x, y, z); a region's probability is the sum of its classes'.
    """
    return probability if have == want else region_probabilities(probability, have.labels)


def region_probabilities(classes: Tensor, labels: LabelSet) -> Tensor:
    """Sum the probabilities of classes over each region.

    Args:
        classes: Float (K, x, y, z), one a class.
        labels: The label set of the classes.

    Returns:
        Float (R, x, y, z).
    """
    return torch.stack([classes[list(members)].sum(0) for members in labels.members.values()])


def class_probabilities(regions: Tensor, labels: LabelSet) -> Tensor:
    """Probabilities of classes from those of nested regions.

    Each class is its region without the inner ones, never below 0, and all are scaled to sum to 1;
    for glioma:

        p ~ max(0, (1 - WT, TC - ET, WT - TC, ET))

    This inverts `region_probabilities` where the regions are nested.

    Args:
        regions: Float (R, x, y, z).
        labels: The label set of the regions.

    Returns:
        Float (K, x, y, z), one a class.
    """
    by_name = dict(zip(labels.regions, regions, strict=True))
    own = {0: torch.ones_like(regions[0])} | {
        labels.number(name): by_name[region] for region, name in labels.written
    }
    number = {"": 0} | {region: labels.number(name) for region, name in labels.written}
    for region, outer in labels.within.items():
        own[number[outer]] = own[number[outer]] - by_name[region]
    classes = torch.stack([own[c] for c in range(len(labels.classes))]).clamp_min(0)
    return classes / classes.sum(0)


def background(channels: Channels, shape: Sequence[int], device: torch.device) -> Tensor:
    """Probabilities that nothing is there.

    Args:
        channels: The K channels.
        shape: Voxels along x, y and z.
        device: Where the result lies.

    Returns:
        float32 (K, x, y, z), of 0 and 1.
    """
    certain = torch.zeros((len(channels), *shape), device=device)
    if not channels.are_regions:
        certain[0] = 1
    return certain


def decide(probability: Tensor, channels: Channels, thresholds: Sequence[float] = ()) -> Tensor:
    """Decide the class of each voxel.

    Without thresholds, classes compete and the likeliest wins. Regions, and classes with
    thresholds, are decided region by region, and a voxel of an inner region belongs to it only
    where it belongs to the outer ones as well. Where regions that should not meet do, the one that
    the label set writes last wins, as with nnU-Net's `regions_class_order`.

    Args:
        probability: Float (K, x, y, z).
        channels: The K channels.
        thresholds: The probabilities above which a voxel belongs to each region, in the order of
            the label set; those that are missing are 0.5. () lets classes compete.

    Returns:
        Class numbers, uint8 (x, y, z), on the same device.
    """
    if not (channels.are_regions or thresholds):
        return probability.argmax(0).to(torch.uint8)
    labels = channels.labels
    regions = probability if channels.are_regions else region_probabilities(probability, labels)
    all_thresholds = (*thresholds, *(HALF,) * (len(labels.regions) - len(thresholds)))
    limits = torch.tensor(all_thresholds, device=probability.device)
    above = dict(zip(labels.regions, regions > limits[:, None, None, None], strict=True))
    classes = torch.zeros(probability.shape[1:], dtype=torch.uint8, device=probability.device)
    for region, name in labels.written:
        if outer := labels.within[region]:
            above[region] = above[region] & above[outer]
        classes.masked_fill_(above[region], labels.number(name))
    return classes
