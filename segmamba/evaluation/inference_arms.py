"""Test-time options and post-processing of trained networks, one by one and together.

Each arm is scored, and its time is measured.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from segmamba.config import Config, PostprocessConfig
from segmamba.data.label_sets import LabelSet
from segmamba.data.preprocess import PreparedCase
from segmamba.errors import UserError
from segmamba.evaluation.cases import CaseScores, prepared_scan
from segmamba.evaluation.rules import CHALLENGES, LEGACY, LESIONWISE, Challenge
from segmamba.evaluation.score import score_case
from segmamba.inference.predictor import Predictor, PreparedScan, load_predictor
from segmamba.screen import Progress, no_progress

INFERENCE, POSTPROCESS = "inference.", "postprocess."
"""How the settings begin that can vary after training."""
ARM_METRICS = ("dice", "hd95_mm", "nsd_1mm", "lesionwise_dice")

Changes = Mapping[str, Any]
"""Dotted changes of a Config."""
T = TypeVar("T")


def score_arms(
    checkpoint: str | Path,
    arms: Mapping[str, Changes],
    cases: Sequence[PreparedCase],
    device: torch.device,
    *,
    challenge: str = "GLI",
    progress: Progress = no_progress,
) -> dict[str, list[CaseScores]]:
    """Score one trained network under each arm.

    Arms with the same test-time options share their predictions.

    Args:
        checkpoint: A run's folder, or its weights.
        arms: Arm to its changes below inference. and postprocess.
        cases: The test set.
        device: Where the network predicts.
        challenge: The name of the challenge whose lesion-wise parameters count.
        progress: Called with (arm and case done, in all).

    Returns:
        Arm to a row for each case: {"case", "patient", "seconds", "dice_ET" .. "dice_mean",
        "hd95_mm_..", "lesionwise_dice_.."}. The seconds are prediction and post-processing, without
        reading and scoring.

    Raises:
        UserError: An arm changes a setting that training has fixed.
    """
    for name, changes in arms.items():
        for setting in changes:
            if not setting.startswith((INFERENCE, POSTPROCESS)):
                raise UserError(
                    f"arm {name!r}: {setting} is fixed by training; "
                    f"only {INFERENCE}* and {POSTPROCESS}* can vary here"
                )
    rows: dict[str, list[CaseScores]] = {name: [] for name in arms}
    done = 0
    for options, names in _by_inference(arms).items():
        predictor = load_predictor(checkpoint, device, changes=dict(options))
        config = predictor.members[0].config
        deciders = {
            name: Predictor(predictor.members, _postprocessing(arms[name])) for name in names
        }
        for case in cases:
            prepared, truth = prepared_scan(case, config), np.array(case.source_label())
            probability, voted_s = _timed(device, _vote, predictor, prepared)
            for name, decider in deciders.items():
                classes, decided_s = _timed(device, _decide, decider, prepared, probability)
                rows[name].append(
                    {"case": case.id, "patient": case.patient, "seconds": voted_s + decided_s}
                    | _scores(case, classes, truth, CHALLENGES[challenge], predictor.labels)
                )
                progress(done := done + 1, len(arms) * len(cases))
    return rows


def _by_inference(arms: Mapping[str, Changes]) -> dict[tuple[tuple[str, Any], ...], list[str]]:
    """Return the arms of each set of test-time options."""
    groups: dict[tuple[tuple[str, Any], ...], list[str]] = {}
    for name, changes in arms.items():
        options = sorted((k, v) for k, v in changes.items() if k.startswith(INFERENCE))
        groups.setdefault(tuple(options), []).append(name)
    return groups


def _postprocessing(changes: Changes) -> PostprocessConfig:
    """Return the post-processing of an arm; what its changes do not name is off."""
    settings = {name: value for name, value in changes.items() if name.startswith(POSTPROCESS)}
    return Config().changed(settings).postprocess


def _scores(
    case: PreparedCase,
    classes: np.ndarray,
    truth: np.ndarray,
    challenge: Challenge,
    labels: LabelSet,
) -> dict[str, float]:
    """Return each of ARM_METRICS per region, and its mean over the regions."""
    rows = score_case(
        case.id, classes, truth, case.source_spacing_mm, (LEGACY, LESIONWISE), challenge, labels
    )
    scores: dict[str, float] = {}
    for row in rows:
        region = row["region"]
        if row["rule"] == LEGACY:
            scores[f"dice_{region}"] = row["dice"]
            scores[f"hd95_mm_{region}"] = row["hd95_mm"]
            scores[f"nsd_1mm_{region}"] = row["nsd_1mm"]
        else:
            scores[f"lesionwise_dice_{region}"] = row["dice"]
    return scores | {
        f"{metric}_mean": float(
            np.mean([scores[f"{metric}_{region}"] for region in labels.regions])
        )
        for metric in ARM_METRICS
    }


def _vote(predictor: Predictor, prepared: PreparedScan) -> torch.Tensor:
    return predictor.vote(predictor.member_probabilities(prepared))


def _decide(predictor: Predictor, prepared: PreparedScan, probability: torch.Tensor) -> np.ndarray:
    return prepared.whole(predictor.decide(probability, prepared))


def _timed(device: torch.device, action: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """Return the result of an action, and the seconds that it took on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = action(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
