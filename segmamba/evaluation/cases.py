"""Scoring a network on whole cases: `validate` chooses (validation), `evaluate` gives the verdict (test)."""

import functools

import numpy as np
import torch

from segmamba.config import InferenceConfig
from segmamba.data.labels import REGIONS
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import hd95_mm
from segmamba.inference.decide import decide
from segmamba.inference.ensemble_member import Member
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import PreparedScan

SCORES = (*REGIONS, "mean")
RESIDENT_CASES = 32  # validation cases that stay on a GPU from one validation to the next: 30 MiB each for a brain at 1 mm


def validate(model, cases, config, device):
    """One row per case, on the grid that the network works in: {"case", "dice_ET", "dice_TC", "dice_WT", "dice_mean"}.

    Without flips, scales and post-processing: it runs every few epochs, and compares epochs.
    """
    model.eval()
    told = config.inference
    inference = InferenceConfig(
        overlap=told.overlap, overlap_voxels=told.overlap_voxels, window_batch=told.window_batch
    )
    member = Member(model, config, device, inference)
    load = _resident if device.type == "cuda" else _load
    rows = []
    for case in cases:
        image, label = load(case, device)
        rows.append(
            _row(case, dice(decide(member.probabilities(image.float()), member.channels), label))
        )
    return rows


def _load(case, device):
    """(image float16 (4, x, y, z), label uint8 (x, y, z)) of a PreparedCase on the device."""
    return tuple(
        torch.from_numpy(np.array(array)).to(device) for array in (case.image(), case.label())
    )


_resident = functools.lru_cache(RESIDENT_CASES)(_load)


def evaluate(model, cases, config, device):
    """One row per case, on the source's grid and labels: Dice as in `validate`, and hd95_mm_ET, hd95_mm_TC, hd95_mm_WT.

    With the configuration's test-time options and post-processing. Where preprocessing changed the grid, probabilities are brought back
    by trilinear interpolation before the decision.
    """
    predictor, rows = _predictor(model, config, device), []
    for case in cases:
        prediction = predictor.predict(prepared_scan(case, config))
        truth = np.array(case.source_label())
        distances = hd95_mm(prediction, truth, case.source_spacing_mm)
        rows.append(
            _row(case, dice(prediction, truth))
            | {f"hd95_mm_{region}": mm for region, mm in distances.items()}
        )
    return rows


def predict_classes(model, case, config, device):
    """Internal classes, uint8 NumPy (x, y, z), of a PreparedCase on the source's grid in canonical orientation, as the test scores them."""
    return _predictor(model, config, device).predict(prepared_scan(case, config))


def prepared_scan(case, config):
    """A PreparedCase, whose cache was made with `config`, as a Predictor takes it."""
    return PreparedScan({config.data.spacing_mm: case.image()}, {config.data.spacing_mm: case})


def _predictor(model, config, device):
    model.eval()
    return Predictor([Member(model, config, device)], config.postprocess)


def means(rows, prefix):
    """{"<prefix>/dice_mean": .., ...}: each score averaged over the rows."""
    return {
        f"{prefix}/{name}": float(np.mean([row[name] for row in rows]))
        for name in rows[0]
        if name != "case"
    }


def _row(case, scores):
    return {"case": case.id} | {f"dice_{name}": scores[name] for name in SCORES}
