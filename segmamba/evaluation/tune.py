"""Thresholds and post-processing of a trained network, chosen on the validation set alone.

The test set must not be seen while they are chosen. One setting is tried after the other, each kept
at its best before the next: the thresholds of WT, TC and ET, their smallest components, the
smallest ET. What gains less than LEAST_GAIN stays off: on a few cases the best of many values
always gains a little.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from segmamba.config import Config, PostprocessConfig
from segmamba.data.case import Case
from segmamba.data.labels import REGIONS
from segmamba.data.source import prepare_split
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.dice import dice
from segmamba.evaluation.patients import patient_means
from segmamba.evaluation.rules import AUTO, CHALLENGES, LEGACY, Challenge, challenge_of
from segmamba.evaluation.score import score_case
from segmamba.files import write_json, write_text
from segmamba.inference.predictor import Predictor, PreparedScan
from segmamba.screen import Progress, Steps, no_progress, points

if TYPE_CHECKING:
    from rich.console import Console

LEAST_GAIN = 0.001
"""Mean Dice that a setting must gain to be kept."""
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
COMPONENT_VOXELS = (0, 10, 20, 50, 100, 200, 500)
ET_VOXELS = (0, 20, 50, 100, 200, 500, 1000)
TRIALS = len(REGIONS) * (len(THRESHOLDS) + len(COMPONENT_VOXELS)) + len(ET_VOXELS)

Change = Callable[[PostprocessConfig], PostprocessConfig]


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
    """uint8 (x, y, z), internal classes, the source's grid."""
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
    tried = 0
    best = PostprocessConfig()
    best_score = mean_dice(predictor, votes, best, rule, parameters)
    steps = []
    for setting, candidates in _candidates():
        scores = {}
        for value, change in candidates:
            scores[str(value)] = mean_dice(predictor, votes, change(best), rule, parameters)
            progress(tried := tried + 1, TRIALS)
        value, change = max(candidates, key=lambda candidate: scores[str(candidate[0])])
        gains = scores[str(value)] >= best_score + LEAST_GAIN
        if gains:
            best, best_score = change(best), scores[str(value)]
        steps.append(Step(setting, scores, str(value) if gains else "off"))
    return best, steps


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
            scores.append(dice(pred, vote.truth)["mean"])
        else:
            rows = score_case(vote.case_id, pred, vote.truth, vote.spacing_mm, (rule,), challenge)
            scores.append(float(np.mean([row["dice"] for row in rows])))
    return float(np.mean(patient_means(np.array(scores), [vote.patient for vote in votes])[0]))


def _candidates() -> Iterator[tuple[str, list[tuple[float, Change]]]]:
    """Yield each setting with its values and what they change, in the order they are tried."""
    for place, region in reversed(list(enumerate(REGIONS))):
        yield (
            f"threshold {region}",
            [(value, _replacing("thresholds", place, value, (0.5,) * 3)) for value in THRESHOLDS],
        )
    for place, region in reversed(list(enumerate(REGIONS))):
        yield (
            f"smallest component of {region}, voxels",
            [(v, _replacing("min_component_voxels", place, v, (0,) * 3)) for v in COMPONENT_VOXELS],
        )
    yield "smallest ET, voxels", [(value, _replacing_smallest_et(value)) for value in ET_VOXELS]


def _replacing(name: str, place: int, value: float, off: tuple[float, ...]) -> Change:
    """Return a change of one place of the tuple `name`; `off` is what stands for ()."""

    def change(config: PostprocessConfig) -> PostprocessConfig:
        values = list(getattr(config, name) or off)
        values[place] = value
        changed: dict[str, Any] = {name: tuple(values)}
        return dataclasses.replace(config, **changed)

    return change


def _replacing_smallest_et(voxels: int) -> Change:
    def change(config: PostprocessConfig) -> PostprocessConfig:
        return dataclasses.replace(config, min_et_voxels=voxels)

    return change


def write_choice(
    path: str | Path,
    settings: PostprocessConfig,
    steps: Sequence[Step],
    cases: Sequence[Case],
    rule: str,
) -> list[Path]:
    """Write the chosen settings, and beside them how they were chosen.

    Args:
        path: Where postprocessing.json goes.
        settings: The chosen settings.
        steps: What was tried.
        cases: The validation set.
        rule: The name of the rule whose Dice counted.

    Returns:
        Both files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "rule": rule,
        "validation": [case.id for case in cases],
        "least_gain": LEAST_GAIN,
        "steps": [vars(step) for step in steps],
    }
    return [
        write_text(path, settings.to_json()),
        write_json(path.with_name(f"{path.stem}_choice.json"), record),
    ]


def render(steps: Sequence[Step], console: Console) -> None:
    """Print a line for each setting: what was tried, what it scored and what stays."""
    from rich.table import Table

    table = Table("setting", "mean Dice on the validation set by value", "chosen", box=None)
    for step in steps:
        scores = "  ".join(
            f"{value}: {points(score, decimals=2)}" for value, score in step.scores.items()
        )
        table.add_row(step.setting, scores, step.chosen)
    console.print(table)
    console.print(
        "These scores flatter: the settings were chosen on the same cases. "
        "The test set has not been read.",
        highlight=False,
    )
