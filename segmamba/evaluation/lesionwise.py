"""Lesion by lesion, as BraTS 2023 ranks: a small missed lesion and a stray voxel cost as much as a large one.

Truth is grown by a few voxels, and what then hangs together is one lesion. Every predicted component that touches a grown lesion
belongs to it, whole, and to several where it touches several; what touches none is a false positive, however small. Each lesion is
scored against all that belongs to it, each false positive counts as a lesion that was missed, and the case gets their mean. Lesions
up to the challenge's volume are left out, but what touches them is no false positive.
"""

from dataclasses import dataclass

import numpy as np

from segmamba.evaluation.hausdorff import bounding_box, mask_hd95_mm
from segmamba.evaluation.rules import LESION_MISSED_MM

ALL_26 = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class Lesions:
    """One region of one case."""

    dice: float
    hd95_mm: float
    found: int
    missed: int
    false: int
    """Predicted components that touch no lesion."""


def lesionwise(pred, truth, spacing_mm, challenge, whole_hd95_mm=None):
    """Bool masks (x, y, z) of one region as Lesions; without lesions and false positives Dice is 1 and HD95 0.

    whole_hd95_mm: HD95 of all of `pred` and `truth`, where it is known; it is also that of an only lesion to which all belongs.
    """
    from scipy.ndimage import find_objects, label

    if not pred.any() and not truth.any():
        return Lesions(dice=1.0, hd95_mm=0.0, found=0, missed=0, false=0)
    box = grown_box(bounding_box(pred | truth), challenge.dilation_steps, truth.shape)
    pred, truth = pred[box], truth[box]
    components, count = label(pred, ALL_26)
    lesions, grown, belongs = _match(truth, components, count, challenge.dilation_steps)
    volumes = np.bincount(lesions.ravel(), minlength=len(belongs))
    counted = [
        i
        for i in range(1, len(belongs))
        if volumes[i] * np.prod(spacing_mm) > challenge.ignored_mm3
    ]
    false = count - int(belongs.any(0).sum())
    dices = _dices(pred, components, lesions, belongs)[counted]
    if len(belongs) == 2 and not false and whole_hd95_mm is not None:
        hd95s_mm = [whole_hd95_mm if belongs.any() else LESION_MISSED_MM for _ in counted]
    else:
        places = find_objects(grown), find_objects(components)
        hd95s_mm = [
            _hd95_mm(i, places, components, lesions, belongs[i], spacing_mm) for i in counted
        ]
    found, scored = int(belongs[counted].any(1).sum()), len(counted) + false
    return Lesions(
        dice=float(dices.sum() / scored) if scored else 1.0,
        hd95_mm=float((sum(hd95s_mm) + false * LESION_MISSED_MM) / scored) if scored else 0.0,
        found=found,
        missed=len(counted) - found,
        false=false,
    )


def grown_box(box, steps, shape):
    """The box wider by `steps` voxels on each side, within the volume: lesions grow no further."""
    return tuple(
        slice(max(0, side.start - steps), min(full, side.stop + steps))
        for side, full in zip(box, shape, strict=True)
    )


def _match(truth, components, count, steps):
    """(number of its lesion at every voxel of truth, the same grown, bool (lesions + 1, count + 1): component belongs to lesion)."""
    from scipy.ndimage import binary_dilation, generate_binary_structure, label

    grown, lesions = label(binary_dilation(truth, generate_binary_structure(3, 2), steps), ALL_26)
    touching = (grown > 0) & (components > 0)
    belongs = np.zeros((lesions + 1, count + 1), bool)
    belongs[grown[touching], components[touching]] = True
    return grown * truth, grown, belongs


def _dices(pred, components, lesions, belongs):
    """Dice of each lesion (and, at 0, of what is none) with all that belongs to it."""
    sizes = np.bincount(components.ravel(), minlength=belongs.shape[1])
    volumes = np.bincount(lesions.ravel(), minlength=len(belongs))
    return (
        2
        * np.bincount(lesions[pred], minlength=len(belongs))
        / np.maximum(volumes + belongs @ sizes, 1)
    )


def _hd95_mm(lesion, places, components, lesions, belongs, spacing_mm):
    """HD95 of lesion number `lesion` and its components; `places` are the boxes of (grown lesions, components)."""
    if not belongs.any():
        return LESION_MISSED_MM
    boxes = [
        places[0][lesion - 1],
        *(places[1][component - 1] for component in np.flatnonzero(belongs)),
    ]
    box = tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*boxes, strict=True)
    )
    return mask_hd95_mm(belongs[components[box]], lesions[box] == lesion, spacing_mm)
