"""Thresholds and post-processing of a trained network, chosen on the validation set alone.

The test set must not be seen while they are chosen. One setting is tried after the other, each kept
at its best before the next: the thresholds of the regions, outer ones first, their smallest
components, the smallest ET. What gains less than LEAST_GAIN stays off: on a few cases the best of
many values always gains a little.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from segmamba.config import Config, PostprocessConfig
from segmamba.data.case import Case
from segmamba.data.label_sets import LabelSet
from segmamba.data.source import prepare_split
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.dice import dice
from segmamba.evaluation.patients import patient_means
from segmamba.evaluation.rules import AUTO, CHALLENGES, LEGACY, Challenge, challenge_of
from segmamba.evaluation.score import score_case
from segmamba.inference.decide import HALF
from segmamba.inference.predictor import Predictor, PreparedScan
from segmamba.screen import Progress, Steps, no_progress

if TYPE_CHECKING:
    pass

LEAST_GAIN = 0.001
"""Mean Dice that a setting must gain to be kept."""
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
COMPONENT_VOXELS = (0, 10, 20, 50, 100, 200, 500)
ET_VOXELS = (0, 20, 50, 100, 200, 500, 1000)

Number = TypeVar("Number", int, float)


def validation_of(config: Config, results: str | Path, steps: Steps) -> list[Case]:
    """Return the labelled cases that chose the checkpoint of a run.

    Args:
        config: The configuration of the run.
        results: The folder below which a phantom is made, as `prepare_split` takes it.
        steps: Shows progress, as `prepare_split` takes it.

    Returns:
        The validation set.

    Raises:
        UserError: The run was tested on these cases as well.
    """
    data = prepare_split(config, results, steps=steps)
    split = data.split()
    if split.test_is_validation:
        raise UserError(
            f"{data.source}: too few patients for a validation set of their own; "
            "what is chosen on the test set would flatter the verdict"
        )
    found = {case.id: case for case in data.cases}
    return [found[case.id] for case in split.validation]


@dataclass(frozen=True)
class Vote:
    """A validation case with the probabilities of its network, before anything is decided."""

    case_id: str
    patient: str
    prepared: PreparedScan
    probability: torch.Tensor
    """float16 (K, x, y, z) on the CPU, on the box of `prepared`."""
    truth: np.ndarray
    """uint8 (x, y, z), class numbers, the source's grid."""
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """One setting that was tried."""

    setting: str
    scores: dict[str, float]
    """The value as text to the mean Dice on the validation set."""
    chosen: str
    """The value that stays, or "off"."""


def votes_on(
    predictor: Predictor, cases: Sequence[Case], *, progress: Progress = no_progress
) -> list[Vote]:
    """Predict labelled cases, without a decision.

    Args:
        predictor: The network, or several that vote.
        cases: The validation set.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        A Vote for each case.

    Raises:
        UserError: A case is bad; a choice on the others alone would be another one.
    """
    votes: list[Vote] = []
    for case in cases:
        scan = read_scan(case)
        assert scan.label is not None, f"{case.id} has no segmentation"
        try:
            prepared = predictor.prepare(scan)
            probability = predictor.vote(predictor.member_probabilities(prepared)).half().cpu()
        except UserError as error:
            raise UserError(f"{case.id}: {error}") from error
        vote = (prepared, probability, scan.label, scan.spacing_mm)
        votes.append(Vote(case.id, case.patient, *vote))
        progress(len(votes), len(cases))
    return votes


def tune(
    predictor: Predictor,
    votes: Sequence[Vote],
    *,
    rule: str = LEGACY,
    challenge: str = AUTO,
    progress: Progress = no_progress,
) -> tuple[PostprocessConfig, list[Step]]:
    """Choose the post-processing with the best mean Dice over patients and regions.

    Args:
        predictor: The network, or several that vote.
        votes: What it predicts of the validation set.
        rule: The name of the rule whose Dice counts.
        challenge: The name of the challenge whose lesion-wise parameters count, or "auto".
        progress: Called with (values tried, values in all).

    Returns:
        The best settings, and what was tried.
    """
    parameters = CHALLENGES[challenge_of(challenge, [vote.case_id for vote in votes])]
    labels, tried = predictor.labels, itertools.count(1)
    regions = [region for region, _ in labels.written]  # outer ones first
    trials = 1 + len(regions) * (len(THRESHOLDS) + len(COMPONENT_VOXELS)) + len(ET_VOXELS)

    def score(config: PostprocessConfig) -> float:
        value = mean_dice(predictor, votes, config, rule, parameters)
        progress(next(tried), trials)
        return value

    off = PostprocessConfig()
    best = _Best(off, mean_dice(predictor, votes, off, rule, parameters))
    best, steps = _tuned_thresholds(best, labels, regions, score)
    for region in regions:
        change = functools.partial(_with_component, labels=labels, region=region)
        setting = f"smallest component of {region}, voxels"
        best, step = _tried(setting, COMPONENT_VOXELS, change, best, score, off="off")
        steps.append(step)
    best, step = _tried("smallest ET, voxels", ET_VOXELS, _with_smallest_et, best, score, off="off")
    return best.config, [*steps, step]


@dataclass(frozen=True)
class _Best:
    """The best settings so far."""

    config: PostprocessConfig
    score: float


def _tried(
    setting: str,
    values: Sequence[float],
    change: Callable[[PostprocessConfig, Any], PostprocessConfig],
    best: _Best,
    score: Callable[[PostprocessConfig], float],
    *,
    off: str,
) -> tuple[_Best, Step]:
    """Try the values of one setting; keep the best of them if it gains LEAST_GAIN, else `off`."""
    scores = {str(value): score(change(best.config, value)) for value in values}
    value = max(values, key=lambda value: scores[str(value)])
    if scores[str(value)] < best.score + LEAST_GAIN:
        return best, Step(setting, scores, off)
    return _Best(change(best.config, value), scores[str(value)]), Step(setting, scores, str(value))


def _tuned_thresholds(
    best: _Best,
    labels: LabelSet,
    regions: Sequence[str],
    score: Callable[[PostprocessConfig], float],
) -> tuple[_Best, list[Step]]:
    """Choose thresholds; they stay off where all together gain less than LEAST_GAIN.

    To decide classes region by region is a change of its own, which the first step shows. The gain
    of each threshold is counted from there.
    """
    half = dataclasses.replace(best.config, thresholds=(HALF,) * len(labels.regions))
    chosen = _Best(half, score(half))
    steps = [Step("region by region", {"off": best.score, str(HALF): chosen.score}, str(HALF))]
    for region in regions:
        change = functools.partial(_with_threshold, labels=labels, region=region)
        setting = f"threshold {region}"
        chosen, step = _tried(setting, THRESHOLDS, change, chosen, score, off=str(HALF))
        steps.append(step)
    if chosen.score < best.score + LEAST_GAIN:
        return best, [dataclasses.replace(step, chosen="off") for step in steps]
    return chosen, steps


def _with_threshold(
    config: PostprocessConfig, value: float, *, labels: LabelSet, region: str
) -> PostprocessConfig:
    return dataclasses.replace(
        config, thresholds=_replaced(config.thresholds, HALF, value, labels, region)
    )


def _with_component(
    config: PostprocessConfig, voxels: int, *, labels: LabelSet, region: str
) -> PostprocessConfig:
    values = _replaced(config.min_component_voxels, 0, voxels, labels, region)
    return dataclasses.replace(config, min_component_voxels=values)


def _with_smallest_et(config: PostprocessConfig, voxels: int) -> PostprocessConfig:
    return dataclasses.replace(config, min_et_voxels=voxels)


def _replaced(
    values: Sequence[Number], off: Number, value: Number, labels: LabelSet, region: str
) -> tuple[Number, ...]:
    """Replace the value of one region in a tuple that may lack the last regions."""
    whole = dict(itertools.zip_longest(labels.regions, values, fillvalue=off)) | {region: value}
    return tuple(whole.values())


def mean_dice(
    predictor: Predictor,
    votes: Sequence[Vote],
    config: PostprocessConfig,
    rule: str,
    challenge: Challenge,
) -> float:
    """Compute the mean Dice over patients and regions under one rule.

    A patient's cases are averaged first.

    Args:
        predictor: The network, or several that vote.
        votes: What it predicts of the cases.
        config: The post-processing.
        rule: The name of the rule.
        challenge: The parameters of the lesion-wise rule.

    Returns:
        The mean, in [0, 1].
    """
    decider = Predictor(predictor.members, config)
    scores: list[float] = []
    for vote in votes:
        probability = vote.probability.to(predictor.device).float()
        pred = vote.prepared.whole(decider.decide(probability, vote.prepared))
        if rule == LEGACY:
            scores.append(dice(pred, vote.truth, decider.labels)["mean"])
        else:
            rows = score_case(
                vote.case_id,
                pred,
                vote.truth,
                vote.spacing_mm,
                (rule,),
                challenge,
                decider.labels,
            )
            scores.append(float(np.mean([row["dice"] for row in rows])))
    return float(np.mean(patient_means(np.array(scores), [vote.patient for vote in votes])[0]))
