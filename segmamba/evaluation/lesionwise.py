"""Scores lesion by lesion, as BraTS 2023 ranks.

A small missed lesion and a stray voxel cost as much as a large lesion. The truth is grown by a few
voxels, and each connected part of it is one lesion. Every predicted component that touches a grown
lesion belongs to it, whole, and to several where it touches several. A component that touches none
is a false positive, however small. Each lesion is scored against all that belongs to it, each false
positive counts as a missed lesion, and the case gets their mean. Lesions up to the challenge's
volume are left out, but what touches them is no false positive.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.evaluation.hausdorff import bounding_box, mask_hd95_mm
from segmamba.evaluation.rules import LESION_MISSED_MM, Challenge

ALL_26 = np.ones((3, 3, 3), bool)
"""A voxel and its 26 neighbours, as the structuring element of connected parts."""


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """The scores of one region of one case."""

    dice: float
    hd95_mm: float
    found: int
    missed: int
    false: int
    """Predicted components that touch no lesion."""


@dataclass(frozen=True)
class _Matching:
    """Lesions of the truth and the predicted components that belong to them."""

    lesions: np.ndarray
    """The number of its lesion at every voxel of the truth, int (x, y, z)."""
    grown: np.ndarray
    """The same after growing."""
    components: np.ndarray
    """The number of its component at every voxel of the prediction, int (x, y, z)."""
    belongs: np.ndarray
    """bool (lesions + 1, components + 1): whether a component belongs to a lesion."""


def lesionwise(
    pred: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    challenge: Challenge,
    whole_hd95_mm: float | None = None,
) -> Lesions:
    """Score one region of one case.

    Without lesions and false positives Dice is 1 and HD95 is 0.

    Args:
        pred: bool (x, y, z).
        truth: bool (x, y, z).
        spacing_mm: Voxel size along each axis.
        challenge: How far lesions grow and which are left out.
        whole_hd95_mm: HD95 of all of `pred` and `truth`, where it is known. It is also that of an
            only lesion to which every component belongs.

    Returns:
        The scores and counts.
    """
    from scipy.ndimage import find_objects

    if not pred.any() and not truth.any():
        return Lesions(dice=1.0, hd95_mm=0.0, found=0, missed=0, false=0)
    box = grown_box(bounding_box(pred | truth), challenge.dilation_steps, truth.shape)
    pred, truth = pred[box], truth[box]
    matching = _match(pred, truth, challenge.dilation_steps)
    belongs = matching.belongs
    volumes = np.bincount(matching.lesions.ravel(), minlength=len(belongs))
    counted = [
        i
        for i in range(1, len(belongs))
        if volumes[i] * np.prod(spacing_mm) > challenge.ignored_mm3
    ]
    false = belongs.shape[1] - 1 - int(belongs.any(0).sum())
    dices = _dices(pred, matching)[counted]
    if len(belongs) == 2 and not false and whole_hd95_mm is not None:
        hd95s_mm = [whole_hd95_mm if belongs.any() else LESION_MISSED_MM for _ in counted]
    else:
        boxes = find_objects(matching.grown), find_objects(matching.components)
        hd95s_mm = [_hd95_mm(lesion, matching, boxes, spacing_mm) for lesion in counted]
    found, scored = int(belongs[counted].any(1).sum()), len(counted) + false
    return Lesions(
        dice=float(dices.sum() / scored) if scored else 1.0,
        hd95_mm=float((sum(hd95s_mm) + false * LESION_MISSED_MM) / scored) if scored else 0.0,
        found=found,
        missed=len(counted) - found,
        false=false,
    )


def grown_box(box: Sequence[slice], steps: int, shape: Sequence[int]) -> tuple[slice, ...]:
    """Widen a box by `steps` voxels on each side, within the volume: lesions grow no further."""
    return tuple(
        slice(max(0, side.start - steps), min(full, side.stop + steps))
        for side, full in zip(box, shape, strict=True)
    )


def _match(pred: np.ndarray, truth: np.ndarray, steps: int) -> _Matching:
    """Number the lesions and components and find which belong together."""
    from scipy.ndimage import binary_dilation, generate_binary_structure, label

    components, count = label(pred, ALL_26)
    grown, lesions = label(binary_dilation(truth, generate_binary_structure(3, 2), steps), ALL_26)
    touching = (grown > 0) & (components > 0)
    belongs = np.zeros((lesions + 1, count + 1), bool)
    belongs[grown[touching], components[touching]] = True
    return _Matching(grown * truth, grown, components, belongs)


def _dices(pred: np.ndarray, matching: _Matching) -> np.ndarray:
    """Return the Dice of each lesion (and, at 0, of the background) with all that belongs to it."""
    lesions, belongs = matching.lesions, matching.belongs
    sizes = np.bincount(matching.components.ravel(), minlength=belongs.shape[1])
    volumes = np.bincount(lesions.ravel(), minlength=len(belongs))
    return (
        2
        * np.bincount(lesions[pred], minlength=len(belongs))
        / np.maximum(volumes + belongs @ sizes, 1)
    )


def _hd95_mm(
    lesion: int,
    matching: _Matching,
    boxes: tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]],
    spacing_mm: Sequence[float],
) -> float:
    """Return HD95 of a lesion and its components; `boxes` are those of (grown lesions, components).

    The number of a lesion or component is 1 more than the place of its box.
    """
    belongs = matching.belongs[lesion]
    if not belongs.any():
        return LESION_MISSED_MM
    own_boxes = [
        boxes[0][lesion - 1],
        *(boxes[1][component - 1] for component in np.flatnonzero(belongs)),
    ]
    box = tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*own_boxes, strict=True)
    )
    pred = belongs[matching.components[box]]
    return mask_hd95_mm(pred, matching.lesions[box] == lesion, spacing_mm)
