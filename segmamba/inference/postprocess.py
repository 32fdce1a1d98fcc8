"""What is done to a predicted volume: CRF, thresholds, small components, small ET.

Each is off unless its setting says otherwise. The parameters are chosen on the validation set and
stored in postprocessing.json beside the checkpoint.

Legend: K channels, (x, y, z) any volume.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from segmamba.config import PostprocessConfig
from segmamba.data.label_sets import LabelSet, classes_from_regions, region_dict
from segmamba.errors import UserError
from segmamba.inference.crf import refine
from segmamba.inference.decide import HALF, decide
from segmamba.models.outputs import Channels

CONNECTED_26 = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are neighbours."""


def likeliest(
    probability: Tensor,
    channels: Channels,
    config: PostprocessConfig,
    guide: Callable[[], Tensor],
) -> Tensor:
    """Decide the class of each voxel, by the CRF and the thresholds where they are on.

    Args:
        probability: Float (K, x, y, z).
        channels: The K channels.
        config: The settings.
        guide: Makes the image, float (4, x, y, z), on the same grid and device. It is called only
            where the CRF is on.

    Returns:
        Class numbers, uint8 (x, y, z), on the device.
    """
    if config.crf_steps:
        probability = refine(probability, channels, guide(), config)
    return decide(probability, channels, config.thresholds)


def postprocess_classes(
    classes: np.ndarray, config: PostprocessConfig, labels: LabelSet
) -> np.ndarray:
    """Do what needs no probabilities: remove small components, then a small ET.

    Args:
        classes: Class numbers, uint8 (x, y, z); left as they are.
        config: The settings.
        labels: The label set of `classes`.

    Returns:
        Class numbers, uint8 (x, y, z).
    """
    if any(config.min_component_voxels):
        classes = without_small_components(classes, config.min_component_voxels, labels)
    et, around = labels.number("ET"), dict(labels.written)[labels.within["ET"]]
    if config.min_et_voxels and 0 < np.count_nonzero(classes == et) < config.min_et_voxels:
        classes = np.where(classes == et, np.uint8(labels.number(around)), classes)
    return classes


def without_small_components(
    classes: np.ndarray, smallest: Sequence[int], labels: LabelSet
) -> np.ndarray:
    """Remove small 26-connected components of regions.

    Outer regions come first: what leaves WT leaves all; what leaves an inner region alone becomes
    the class around it, NCR where it leaves ET and ED where it leaves TC.

    Args:
        classes: Class numbers, uint8 (x, y, z); left as they are.
        smallest: The voxels of the smallest component that stays, for each region in the order of
            the label set; of those that are missing, everything stays.
        labels: The label set of `classes`.

    Returns:
        Class numbers, uint8 (x, y, z).
    """
    from scipy import ndimage

    box = ndimage.find_objects((classes > 0).astype(np.uint8))
    if not box:
        return classes
    out = classes.copy()
    limits = dict(zip(labels.regions, smallest, strict=False))
    kept = region_dict(classes[box[0]], labels)
    for region, outer in labels.within.items():
        mask = kept[region] & kept[outer] if outer else kept[region]
        if limits.get(region):
            components, _ = ndimage.label(mask, CONNECTED_26)
            mask = mask & (np.bincount(components.ravel()) >= limits[region])[components]
        kept[region] = mask
    out[box[0]] = classes_from_regions(np.stack(list(kept.values())), labels)
    return out


def check_postprocessing(config: PostprocessConfig, labels: LabelSet) -> None:
    """Refuse settings that a label set has no use for.

    Args:
        config: The settings.
        labels: The label set of the predictions.

    Raises:
        UserError: There are more values than regions, or one for a region that decides nothing.
    """
    decided = dict(labels.written)
    for name, off in (("thresholds", HALF), ("min_component_voxels", 0)):
        values = getattr(config, name)
        if len(values) > len(labels.regions):
            raise UserError(
                f"postprocess.{name} = {values!r}: has {len(values)} values, and there are "
                f"{len(labels.regions)} regions: {', '.join(labels.regions)}"
            )
        for region, value in zip(labels.regions, values, strict=False):
            if region not in decided and value != off:
                raise UserError(
                    f"postprocess.{name} = {values!r}: {region} is what the regions within and "
                    f"around it leave, and {value!r} has no effect on it; give {off!r} there"
                )
