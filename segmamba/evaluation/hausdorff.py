"""The 95th percentile of surface distances, with the penalties that BraTS gives to a missed region."""

import numpy as np

from segmamba.data.labels import REGIONS, region_masks
from segmamba.evaluation.surface import surface_elements

# Length in mm of the diagonal of a 240x240x155 volume at 1 mm: the challenges' distance when exactly one mask is empty.
MISSED_MM = float(np.sqrt(240**2 + 240**2 + 155**2))


def hd95_mm(pred, truth, spacing_mm):
    """HD95 per region, in mm. pred, truth: internal classes (D, H, W), NumPy; spacing_mm: voxel size along each axis.

    Both empty -> 0; exactly one empty -> 373.13 (the BraTS rule).
    """
    pairs = zip(REGIONS, region_masks(pred), region_masks(truth), strict=True)
    return {region: mask_hd95_mm(p, t, spacing_mm) for region, p, t in pairs}


def mask_hd95_mm(pred, truth, spacing_mm, *, missed_mm=MISSED_MM):
    """HD95 of two bool masks (x, y, z), in mm: the larger of both directions. Both empty -> 0; exactly one empty -> `missed_mm`."""
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return missed_mm
    box = bounding_box(pred | truth)
    (here, here_mm2), (there, there_mm2) = (
        surface_elements(mask[box], spacing_mm) for mask in (pred, truth)
    )
    forth = _percentile95(_distances_mm(here, there, spacing_mm), here_mm2)
    back = _percentile95(_distances_mm(there, here, spacing_mm), there_mm2)
    return float(max(forth, back))


def bounding_box(mask):
    """Slices of the smallest box that holds all of a bool mask that is not empty."""
    filled = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


def _distances_mm(places, others, spacing_mm):
    """From each place (E, 3), in voxels, to the nearest of the others. By a k-d tree: its cost is that of the surfaces, not of the box."""
    from scipy.spatial import cKDTree

    spacing_mm = np.asarray(spacing_mm, float)
    _, nearest = cKDTree(others * spacing_mm).query(places * spacing_mm)
    offsets = (
        places - others[nearest]
    ) * spacing_mm  # exact in voxels, so that equal distances are equal numbers
    return np.sqrt((offsets**2).sum(1))


def _percentile95(distances_mm, areas):
    """The distance within which 95 % of the surface lies; equal distances are taken by area, as the official scorer does."""
    order = np.lexsort((areas, distances_mm))
    areas = areas[order]
    reached = np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95)
    return distances_mm[order][min(reached, len(order) - 1)]
