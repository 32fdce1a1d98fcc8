"""What is done to a predicted volume: CRF, thresholds, small components, small ET; each off unless its setting says otherwise.

Parameters are chosen on the validation set and stored in postprocessing.json beside the checkpoint. Legend: K channels, (x, y, z) any volume.
"""

import numpy as np

from segmamba.data.labels import ET, NCR, REGIONS, classes_from_regions, region_masks
from segmamba.inference.crf import refine
from segmamba.inference.decide import decide

CONNECTED_26 = np.ones((3, 3, 3), bool)


def likeliest(probability, channels, config, guide):
    """Internal classes, uint8 (x, y, z) on the device, of probabilities (K, x, y, z): CRF and thresholds. `config` is a PostprocessConfig.

    guide: a function that gives the image (4, x, y, z) on the same grid; called where the CRF is on.
    """
    if config.crf_steps:
        probability = refine(probability, channels, guide(), config)
    return decide(probability, channels, config.thresholds)


def postprocess_classes(classes, config):
    """What needs no probabilities: small components, then small ET. classes: uint8 NumPy (x, y, z), left as it is."""
    if any(config.min_component_voxels):
        classes = without_small_components(classes, config.min_component_voxels)
    if config.min_et_voxels and 0 < np.count_nonzero(classes == ET) < config.min_et_voxels:
        classes = np.where(classes == ET, np.uint8(NCR), classes)
    return classes


def without_small_components(classes, smallest):
    """Classes without the 26-connected components of ET, TC and WT that have fewer voxels than `smallest` says, one number a region.

    Outer regions first: what leaves WT leaves all; what leaves TC alone becomes ED, what leaves ET alone NCR.
    """
    from scipy import ndimage

    box = ndimage.find_objects((classes > 0).astype(np.uint8))
    if not box:
        return classes
    out = classes.copy()
    kept, outer = {}, None
    masks = dict(zip(REGIONS, region_masks(classes[box[0]]), strict=True))
    for region, limit in reversed(list(zip(REGIONS, smallest, strict=True))):  # WT, TC, ET
        mask = masks[region] if outer is None else masks[region] & outer
        if limit:
            components, _ = ndimage.label(mask, CONNECTED_26)
            mask = mask & (np.bincount(components.ravel()) >= limit)[components]
        kept[region] = outer = mask
    out[box[0]] = classes_from_regions(np.stack([kept[region] for region in REGIONS]))
    return out
