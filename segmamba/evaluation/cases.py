"""Scoring a network on whole cases: `validate` chooses (validation), `evaluate` decides (test)."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from segmamba.config import Config, InferenceConfig
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import surface_scores
from segmamba.evaluation.patients import NAMES, patient_means, row_patient
from segmamba.inference.decide import decide
from segmamba.inference.ensemble_member import Member
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import PreparedScan

CaseScores = dict[str, Any]
"""One case's scores: {"case": its id, "patient": .., "dice_ET": .., "dice_mean": ..,
"hd95_mm_ET": ..}."""

RESIDENT_CASES = 32
"""Validation cases that stay on a GPU from one validation to the next: 30 MiB each for a brain at
1 mm."""


def validate(
    model: torch.nn.Module, cases: Iterable[PreparedCase], config: Config, device: torch.device
) -> list[CaseScores]:
    """Score a network on the grid that it works in.

    Flips, scales and post-processing are left out: validation runs every few epochs, and compares
    epochs.

    Args:
        model: The network, on `device`.
        cases: The validation set.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        A row for each case: {"case", "patient", "dice_ET", .., "dice_mean"}, by the regions of its
        label set.
    """
    model.eval()
    asked = config.inference
    inference = InferenceConfig(
        overlap=asked.overlap, overlap_voxels=asked.overlap_voxels, window_batch=asked.window_batch
    )
    member = Member(model, config, device, inference)
    load = _resident if device.type == "cuda" else _load
    rows = []
    for case in cases:
        image, label = load(case, device)
        classes = decide(member.probabilities(image.float()), member.outputs)
        rows.append(_row(case, dice(classes, label, member.outputs.labels)))
    return rows


def _load(case: PreparedCase, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a case's float16 image (4, x, y, z) and uint8 label (x, y, z) on the device."""
    return (
        torch.from_numpy(np.array(case.image())).to(device),
        torch.from_numpy(np.array(case.label())).to(device),
    )


_resident = functools.lru_cache(RESIDENT_CASES)(_load)


def evaluate(
    model: torch.nn.Module, cases: Iterable[PreparedCase], config: Config, device: torch.device
) -> list[CaseScores]:
    """Score a network on the source's grid and labels, as the test does.

    The configuration's test-time options and post-processing are used. Where preprocessing changed
    the grid, probabilities are brought back by trilinear interpolation before the decision.

    Args:
        model: The network, on `device`.
        cases: The test set.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        A row for each case: Dice as in `validate`, hd95_mm_ET and so on, and the surface Dice
        nsd_1mm_ET, .., nsd_1mm_mean.
    """
    predictor, rows = make_predictor(model, config, device), []
    for case in cases:
        prediction = predictor.predict(prepared_scan(case, config))
        truth = np.array(case.source_label())
        surfaces = surface_scores(prediction, truth, case.source_spacing_mm, predictor.labels)
        rows.append(_row(case, dice(prediction, truth, predictor.labels)) | surfaces)
    return rows


def predict_classes(
    model: torch.nn.Module, case: PreparedCase, config: Config, device: torch.device
) -> np.ndarray:
    """Segment one case as the test does.

    Args:
        model: The network, on `device`.
        case: The case.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        Class numbers, uint8 (x, y, z), on the source's grid in canonical orientation.
    """
    return make_predictor(model, config, device).predict(prepared_scan(case, config))


def prepared_scan(case: PreparedCase, config: Config) -> PreparedScan:
    """Return a case of the cache that was made with `config`, as a Predictor takes it."""
    return PreparedScan({config.data.spacing_mm: case.image()}, {config.data.spacing_mm: case})


def make_predictor(model: torch.nn.Module, config: Config, device: torch.device) -> Predictor:
    """Make of a network what the test predicts with.

    Args:
        model: The network, on `device`; it is put into eval mode.
        config: Its test-time options and post-processing are used.
        device: Where the network predicts.

    Returns:
        The predictor.
    """
    model.eval()
    return Predictor([Member(model, config, device)], config.postprocess)


def means(rows: Sequence[CaseScores], prefix: str) -> dict[str, float]:
    """Average each score over patients, each patient's cases first.

    Args:
        rows: The scores of each case; at least one.
        prefix: "val" or "test".

    Returns:
        {"<prefix>/dice_mean": .., ...}.
    """
    patients = [row_patient(row) for row in rows]
    return {
        f"{prefix}/{name}": float(
            np.mean(patient_means(np.array([row[name] for row in rows], float), patients)[0])
        )
        for name in rows[0]
        if name not in NAMES
    }


def _row(case: PreparedCase, scores: dict[str, float]) -> CaseScores:
    names = {"case": case.id, "patient": case.patient}
    return names | {f"dice_{name}": score for name, score in scores.items()}
