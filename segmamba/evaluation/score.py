"""One case under the named rules: a row for each region and rule."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from segmamba.data.label_sets import LabelSet, region_masks
from segmamba.evaluation.hausdorff import bounding_box, mask_surface_scores
from segmamba.evaluation.lesionwise import grown_box, lesionwise
from segmamba.evaluation.rules import LEGACY, LESIONWISE, Challenge

METRICS = ("dice", "hd95_mm", "nsd_1mm", "sensitivity", "specificity")
COLUMNS = (
    "case",
    "patient",
    "region",
    "rule",
    *METRICS,
    "volume_ml",
    "predicted_ml",
    "lesions_found",
    "lesions_missed",
    "lesions_false",
)
ScoreRow = dict[str, Any]
"""The scores of one region of one case under one rule, by COLUMNS: names are str, counts int and
the rest float."""


def score_case(
    case_id: str,
    pred: np.ndarray,
    truth: np.ndarray,
    spacing_mm: Sequence[float],
    rules: Collection[str],
    challenge: Challenge,
    labels: LabelSet,
) -> list[ScoreRow]:
    """Score one case.

    Sensitivity, specificity, NSD and volumes are those of the whole case under every rule.

    Args:
        case_id: The name of the case.
        pred: Class numbers, uint8 (x, y, z).
        truth: Class numbers, uint8 (x, y, z), on the same grid.
        spacing_mm: Voxel size along each axis.
        rules: Names from RULES.
        challenge: The parameters of the lesion-wise rule.
        labels: The label set of both.

    Returns:
        A row for each region and rule. Counts of lesions are None under a rule without
        lesions; so is the patient, whom `evaluate` names.
    """
    voxels, voxel_ml = truth.size, float(np.prod(spacing_mm)) / 1000
    tumour = (pred > 0) | (truth > 0)
    box = (
        grown_box(bounding_box(tumour), challenge.dilation_steps, truth.shape)
        if tumour.any()
        else (slice(1),) * 3
    )
    rows = []
    masks = zip(
        labels.regions,
        region_masks(pred[box], labels),
        region_masks(truth[box], labels),
        strict=True,
    )
    for region, p, t in masks:
        both, predicted, true = (int(np.count_nonzero(mask)) for mask in (p & t, p, t))
        surfaces = mask_surface_scores(p, t, spacing_mm)
        hd95_mm = surfaces.hd95_mm
        whole = {
            "case": case_id,
            "region": region,
            "nsd_1mm": surfaces.nsd_1mm,
            "sensitivity": both / true if true else float(not predicted),
            "specificity": 1 - (predicted - both) / (voxels - true) if voxels > true else 1.0,
            "volume_ml": true * voxel_ml,
            "predicted_ml": predicted * voxel_ml,
        }
        if LEGACY in rules:
            dice = 2 * both / (predicted + true) if predicted + true else 1.0
            rows.append(whole | {"rule": LEGACY, "dice": dice, "hd95_mm": hd95_mm})
        if LESIONWISE in rules:
            lesions = lesionwise(p, t, spacing_mm, challenge, hd95_mm)
            scores = {
                "rule": LESIONWISE,
                "dice": lesions.dice,
                "hd95_mm": lesions.hd95_mm,
                "lesions_found": lesions.found,
                "lesions_missed": lesions.missed,
                "lesions_false": lesions.false,
            }
            rows.append(whole | scores)
    return [{column: row.get(column) for column in COLUMNS} for row in rows]
