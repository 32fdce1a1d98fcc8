"""One case under the named rules: a row for each region and rule."""

import numpy as np

from segmamba.data.labels import REGIONS, region_masks
from segmamba.evaluation.hausdorff import bounding_box, mask_hd95_mm
from segmamba.evaluation.lesionwise import grown_box, lesionwise
from segmamba.evaluation.rules import LEGACY, LESIONWISE

METRICS = ("dice", "hd95_mm", "sensitivity", "specificity")
COLUMNS = (
    "case",
    "region",
    "rule",
    *METRICS,
    "volume_ml",
    "predicted_ml",
    "lesions_found",
    "lesions_missed",
    "lesions_false",
)


def score_case(case_id, pred, truth, spacing_mm, rules, challenge):
    """Dicts of COLUMNS, one for each region and rule. pred, truth: internal classes, uint8 (x, y, z), on one grid; lesions are None
    under a rule that knows none. Sensitivity, specificity and volumes are those of the whole case under every rule.
    """
    voxels, voxel_ml = truth.size, float(np.prod(spacing_mm)) / 1000
    tumour = (pred > 0) | (truth > 0)
    box = (
        grown_box(bounding_box(tumour), challenge.dilation_steps, truth.shape)
        if tumour.any()
        else (slice(1),) * 3
    )
    rows = []
    for region, p, t in zip(
        REGIONS, region_masks(pred[box]), region_masks(truth[box]), strict=True
    ):
        both, predicted, true = (int(np.count_nonzero(mask)) for mask in (p & t, p, t))
        hd95_mm = mask_hd95_mm(p, t, spacing_mm)
        whole = {
            "sensitivity": both / true if true else float(not predicted),
            "specificity": 1 - (predicted - both) / (voxels - true) if voxels > true else 1.0,
            "volume_ml": true * voxel_ml,
            "predicted_ml": predicted * voxel_ml,
        }
        if LEGACY in rules:
            dice = 2 * both / (predicted + true) if predicted + true else 1.0
            rows.append(_row(case_id, region, LEGACY, whole, dice=dice, hd95_mm=hd95_mm))
        if LESIONWISE in rules:
            found = lesionwise(p, t, spacing_mm, challenge, hd95_mm)
            lesions = {
                "lesions_found": found.found,
                "lesions_missed": found.missed,
                "lesions_false": found.false,
            }
            rows.append(
                _row(
                    case_id,
                    region,
                    LESIONWISE,
                    whole,
                    dice=found.dice,
                    hd95_mm=found.hd95_mm,
                    **lesions,
                )
            )
    return rows


def _row(case_id, region, rule, whole, **scores):
    row = {"case": case_id, "region": region, "rule": rule} | whole | scores
    return {column: row.get(column) for column in COLUMNS}
