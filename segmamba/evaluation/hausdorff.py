"""The 95th percentile of surface distances (HD95), with BraTS's penalties for a missed region."""

from collections.abc import Sequence

import numpy as np

from segmamba.data.label_sets import LabelSet, region_masks
from segmamba.evaluation.surface import surface_elements

MISSED_MM = float(np.sqrt(240**2 + 240**2 + 155**2))
"""The challenges' distance where exactly one mask is empty: the diagonal, in mm, of a 240x240x155
volume at 1 mm."""


def hd95_mm(
    pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], labels: LabelSet
) -> dict[str, float]:
    """Compute HD95 per region. Both empty -> 0; exactly one empty -> 373.13 (the BraTS rule).

    Args:
        pred: Class numbers (D, H, W).
        truth: Class numbers (D, H, W).
        spacing_mm: Voxel size along each axis.
        labels: The label set of both.

    Returns:
        {"ET": .., "TC": .., "WT": ..} by the regions of `labels`, in mm.
    """
    pairs = zip(
        labels.regions, region_masks(pred, labels), region_masks(truth, labels), strict=True
    )
    return {region: mask_hd95_mm(p, t, spacing_mm) for region, p, t in pairs}


def mask_hd95_mm(
    pred: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    missed_mm: float = MISSED_MM,
) -> float:
    """Compute HD95 of two masks: the larger of both directions.

    Args:
        pred: bool (x, y, z).
        truth: bool (x, y, z).
        spacing_mm: Voxel size along each axis.
        missed_mm: The distance where exactly one mask is empty.

    Returns:
        The distance in mm; 0 where both masks are empty.
    """
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return missed_mm
    box = bounding_box(pred | truth)
    pred_places, pred_mm2 = surface_elements(pred[box], spacing_mm)
    true_places, true_mm2 = surface_elements(truth[box], spacing_mm)
    forth = _percentile95(_distances_mm(pred_places, true_places, spacing_mm), pred_mm2)
    back = _percentile95(_distances_mm(true_places, pred_places, spacing_mm), true_mm2)
    return float(max(forth, back))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return slices of the smallest box that holds all of a bool mask that is not empty."""
    filled = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


def _distances_mm(
    places: np.ndarray, others: np.ndarray, spacing_mm: Sequence[float]
) -> np.ndarray:
    """Return the distance of each place (E, 3), in voxels, from the nearest of the others.

    The search is by a k-d tree: its cost is that of the surfaces, not of the box.
    """
    from scipy.spatial import cKDTree

    voxel_mm = np.asarray(spacing_mm, float)
    _, nearest = cKDTree(others * voxel_mm).query(places * voxel_mm)
    # The offsets are exact in voxels, so that equal distances are equal numbers.
    offsets = (places - others[nearest]) * voxel_mm
    return np.sqrt((offsets**2).sum(1))


def _percentile95(distances_mm: np.ndarray, areas: np.ndarray) -> float:
    """Return the distance within which 95 % of the surface lies.

    Equal distances are taken in the order of their area, as the official scorer does.
    """
    order = np.lexsort((areas, distances_mm))
    areas = areas[order]
    reached = int(np.searchsorted(np.cumsum(areas) / np.sum(areas), 0.95))
    return distances_mm[order][min(reached, len(order) - 1)]
