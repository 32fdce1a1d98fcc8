"""Distances between surfaces: HD95 with BraTS's penalties for a missed region, and NSD at 1 mm.

NSD, the normalised surface Dice (Nikolov et al. 2018), is the share of both surfaces that lies
within a tolerance of the other one: 1 mm, a voxel of BraTS's grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.data.label_sets import LabelSet, region_masks
from segmamba.evaluation.surface import surface_elements

MISSED_MM = float(np.sqrt(240**2 + 240**2 + 155**2))
"""The challenges' distance where exactly one mask is empty: the diagonal, in mm, of a 240x240x155
volume at 1 mm."""
TOLERANCE_MM = 1.0


@dataclass(frozen=True)
class SurfaceScores:
    """How far two masks' surfaces lie apart."""

    hd95_mm: float
    nsd_1mm: float
    """From 0 to 1."""


def surface_scores(
    pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], labels: LabelSet
) -> dict[str, float]:
    """Compute HD95 and NSD at 1 mm per region, and the mean NSD.

    Both empty -> 0 mm and 1; exactly one empty -> 373.13 mm and 0 (the BraTS rule).

    Args:
        pred: Class numbers (D, H, W).
        truth: Class numbers (D, H, W).
        spacing_mm: Voxel size along each axis.
        labels: The label set of both.

    Returns:
        {"hd95_mm_ET": .., .., "nsd_1mm_ET": .., .., "nsd_1mm_mean": ..}.
    """
    pairs = zip(
        labels.regions, region_masks(pred, labels), region_masks(truth, labels), strict=True
    )
    found = {region: mask_surface_scores(p, t, spacing_mm) for region, p, t in pairs}
    nsd = {f"nsd_1mm_{region}": of.nsd_1mm for region, of in found.items()}
    return (
        {f"hd95_mm_{region}": of.hd95_mm for region, of in found.items()}
        | nsd
        | {"nsd_1mm_mean": sum(nsd.values()) / len(nsd)}
    )


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
    return mask_surface_scores(pred, truth, spacing_mm, missed_mm=missed_mm).hd95_mm


def mask_surface_scores(
    pred: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    *,
    missed_mm: float = MISSED_MM,
) -> SurfaceScores:
    """Compute HD95 and NSD at 1 mm of two masks.

    Args:
        pred: bool (x, y, z).
        truth: bool (x, y, z).
        spacing_mm: Voxel size along each axis.
        missed_mm: The distance where exactly one mask is empty.

    Returns:
        Both: 0 mm and 1 where both masks are empty, `missed_mm` and 0 where one of them is.
    """
    if not pred.any() and not truth.any():
        return SurfaceScores(0.0, 1.0)
    if not pred.any() or not truth.any():
        return SurfaceScores(missed_mm, 0.0)
    box = bounding_box(pred | truth)
    pred_places, pred_mm2 = surface_elements(pred[box], spacing_mm)
    true_places, true_mm2 = surface_elements(truth[box], spacing_mm)
    forth_mm = _distances_mm(pred_places, true_places, spacing_mm)
    back_mm = _distances_mm(true_places, pred_places, spacing_mm)
    farthest = max(_percentile95(forth_mm, pred_mm2), _percentile95(back_mm, true_mm2))
    near_mm2 = pred_mm2[forth_mm <= TOLERANCE_MM].sum() + true_mm2[back_mm <= TOLERANCE_MM].sum()
    return SurfaceScores(float(farthest), float(near_mm2 / (pred_mm2.sum() + true_mm2.sum())))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return slices of the smallest box that holds all of a bool mask that is not empty."""
    filled = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


def tumour_box(pred: np.ndarray, truth: np.ndarray) -> tuple[slice, ...]:
    """Return slices of the smallest box that holds all that either calls tumour.

    Dice and surface scores of the box are those of the whole, and a box is a few percent of it.

    Args:
        pred: Class numbers (x, y, z).
        truth: Class numbers (x, y, z).

    Returns:
        The box; the whole where neither has any tumour.
    """
    tumour = (pred > 0) | (truth > 0)
    return bounding_box(tumour) if tumour.any() else (slice(None),) * 3


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
