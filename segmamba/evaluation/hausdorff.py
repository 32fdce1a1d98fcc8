"""The 95th percentile of surface distances, with the penalties that BraTS gives to a missed region."""

import numpy as np

from segmamba.data.labels import REGIONS, region_masks

# Length in mm of the diagonal of a 240x240x155 volume at 1 mm: the challenges' distance when exactly one mask is empty.
MISSED_MM = float(np.sqrt(240**2 + 240**2 + 155**2))


def hd95_mm(pred, truth, spacing_mm):
    """HD95 per region, in mm. pred, truth: internal classes (D, H, W), NumPy; spacing_mm: voxel size along each axis.

    Both empty -> 0; exactly one empty -> 373.13 (the BraTS rule).
    """
    pairs = zip(REGIONS, region_masks(pred), region_masks(truth), strict=True)
    return {region: _hd95_mm(p, t, spacing_mm) for region, p, t in pairs}


def _hd95_mm(pred, truth, spacing_mm):
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return MISSED_MM
    box = _bounding_box(pred | truth)
    pred, truth = (_surface(np.pad(mask[box], 1)) for mask in (pred, truth))
    there, back = _distances(pred, truth, spacing_mm), _distances(truth, pred, spacing_mm)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _surface(mask):
    """The mask's voxels with a face on the outside."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _distances(surface, other, spacing_mm):
    """Distance in mm from every voxel of one surface to the nearest of the other."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~other, sampling=spacing_mm)[surface]


def _bounding_box(mask):
    return tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(mask))
