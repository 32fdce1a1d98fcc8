"""Test-time options and post-processing, one by one and together, on trained networks: what each scores and what it costs."""

import time

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.labels import REGIONS
from segmamba.errors import UserError
from segmamba.evaluation.cases import prepared_scan
from segmamba.evaluation.rules import CHALLENGES, LEGACY, LESIONWISE
from segmamba.evaluation.score import score_case
from segmamba.inference.predictor import Predictor, load_predictor

INFERENCE, POSTPROCESS = "inference.", "postprocess."
SCORES = ("dice", "hd95_mm", "lesionwise_dice")


def score_arms(
    checkpoint, arms, cases, device, *, challenge="GLI", progress=lambda done, total: None
):
    """{arm: rows}: a dict for each of the PreparedCases, {"case", "seconds", "dice_ET" .. "dice_mean", "hd95_mm_..", "lesionwise_dice_.."}.

    arms: {name: dotted changes below inference. and postprocess.}. Arms with the same test-time options share their predictions.
    seconds: prediction and post-processing, without reading and scoring.
    """
    for name, changes in arms.items():
        for setting in changes:
            if not setting.startswith((INFERENCE, POSTPROCESS)):
                raise UserError(
                    f"arm {name!r}: {setting} is fixed by training; only {INFERENCE}* and {POSTPROCESS}* can vary here"
                )
    groups = {}
    for name, changes in arms.items():
        groups.setdefault(
            tuple(sorted((k, v) for k, v in changes.items() if k.startswith(INFERENCE))), []
        ).append(name)
    rows, done = {name: [] for name in arms}, 0
    for options, names in groups.items():
        predictor = load_predictor(checkpoint, device, changes=dict(options))
        config = predictor.members[0].config
        deciders = {
            name: Predictor(predictor.members, _postprocessing(arms[name])) for name in names
        }
        for case in cases:
            prepared, truth = prepared_scan(case, config), np.array(case.source_label())
            probability, voted_s = _timed(
                lambda p=predictor, x=prepared: p.vote(p.member_probabilities(x)), device
            )
            for name, decider in deciders.items():
                classes, decided_s = _timed(
                    lambda d=decider, p=probability, x=prepared: x.whole(d.decide(p, x)), device
                )
                rows[name].append(
                    {"case": case.id, "seconds": voted_s + decided_s}
                    | _scores(case, classes, truth, CHALLENGES[challenge])
                )
                progress(done := done + 1, len(arms) * len(cases))
    return rows


def _postprocessing(changes):
    """The PostprocessConfig of an arm's changes; what they do not name is off."""
    return (
        Config()
        .changed({name: value for name, value in changes.items() if name.startswith(POSTPROCESS)})
        .postprocess
    )


def _scores(case, classes, truth, challenge):
    scored = score_case(
        case.id, classes, truth, case.source_spacing_mm, (LEGACY, LESIONWISE), challenge
    )
    found = {}
    for row in scored:
        names = (
            {"dice": "dice", "hd95_mm": "hd95_mm"}
            if row["rule"] == LEGACY
            else {"dice": "lesionwise_dice"}
        )
        found |= {f"{name}_{row['region']}": row[metric] for metric, name in names.items()}
    return found | {
        f"{score}_mean": float(np.mean([found[f"{score}_{region}"] for region in REGIONS]))
        for score in SCORES
    }


def _timed(action, device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start
