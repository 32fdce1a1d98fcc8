"""What is done to a predicted volume: CRF, thresholds, small components, small ET.

Each is off unless its setting says otherwise. The parameters are chosen on the validation set and
stored in postprocessing.json beside the checkpoint.

Legend: K channels, (x, y, z) any volume.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from segmamba.config import PostprocessConfig
from segmamba.data.labels import ET, NCR, REGIONS, classes_from_regions, region_masks
from segmamba.inference.crf import refine
from segmamba.inference.decide import decide

CONNECTED_26 = np.ones((3, 3, 3), bool)
"""Voxels that share a corner are neighbours."""


def likeliest(
    probability: Tensor,
    channels: tuple[str, ...],
    config: PostprocessConfig,
    guide: Callable[[], Tensor],
) -> Tensor:
    """Decide the class of each voxel, by the CRF and the thresholds where they are on.

    Args:
        probability: Float (K, x, y, z).
        channels: CLASSES or REGIONS, the names of the K channels.
        config: The settings.
        guide: Makes the image, float (4, x, y, z), on the same grid and device. It is called only
            where the CRF is on.

    Returns:
        Internal classes, uint8 (x, y, z), on the device.
    """
    if config.crf_steps:
        probability = refine(probability, channels, guide(), config)
    return decide(probability, channels, config.thresholds)


def postprocess_classes(classes: np.ndarray, config: PostprocessConfig) -> np.ndarray:
    """Do what needs no probabilities: remove small components, then a small ET.

    Args:
        classes: Internal classes, uint8 (x, y, z); left as they are.
        config: The settings.

    Returns:
        Internal classes, uint8 (x, y, z).
    """
    if any(config.min_component_voxels):
        classes = without_small_components(classes, config.min_component_voxels)
    if config.min_et_voxels and 0 < np.count_nonzero(classes == ET) < config.min_et_voxels:
        classes = np.where(classes == ET, np.uint8(NCR), classes)
    return classes


def without_small_components(classes: np.ndarray, smallest: tuple[int, int, int]) -> np.ndarray:
    """Remove small 26-connected components of ET, TC and WT.

    Outer regions come first: what leaves WT leaves all; what leaves TC alone becomes ED, what
    leaves ET alone NCR.

    Args:
        classes: Internal classes, uint8 (x, y, z); left as they are.
        smallest: The voxels of the smallest component that stays, for ET, TC and WT.

    Returns:
        Internal classes, uint8 (x, y, z).
    """
    from scipy import ndimage

    box = ndimage.find_objects((classes > 0).astype(np.uint8))
    if not box:
        return classes
    out = classes.copy()
    kept: dict[str, np.ndarray] = {}
    outer = None
    masks = dict(zip(REGIONS, region_masks(classes[box[0]]), strict=True))
    for region, limit in reversed(list(zip(REGIONS, smallest, strict=True))):  # WT, TC, ET
        mask = masks[region] if outer is None else masks[region] & outer
        if limit:
            components, _ = ndimage.label(mask, CONNECTED_26)
            mask = mask & (np.bincount(components.ravel()) >= limit)[components]
        kept[region] = outer = mask
    out[box[0]] = classes_from_regions(np.stack([kept[region] for region in REGIONS]))
    return out
