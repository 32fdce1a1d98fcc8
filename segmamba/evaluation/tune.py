"""Thresholds and post-processing of a trained network, chosen on the validation set alone: the test must not see them being chosen.

One setting after the other, each kept at its best before the next is tried: the thresholds of WT, TC and ET, their smallest
components, the smallest ET. What gains less than LEAST_GAIN stays off: on a few cases the best of many values always gains a little.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.labels import REGIONS
from segmamba.data.source import labelled_cases
from segmamba.data.splits import SourceCase, split_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.dice import dice
from segmamba.evaluation.rules import CHALLENGES, LEGACY, challenge_of
from segmamba.evaluation.score import score_case
from segmamba.files import write_json, write_text
from segmamba.inference.predictor import Predictor
from segmamba.screen import points

LEAST_GAIN = 0.001
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
COMPONENT_VOXELS = (0, 10, 20, 50, 100, 200, 500)
ET_VOXELS = (0, 20, 50, 100, 200, 500, 1000)


def validation_of(config, results, steps):
    """The labelled Cases that chose the checkpoint of a run with this Config; UserError where they tested it as well.

    results, steps: as `labelled_cases` takes them.
    """
    cases, source, _ = labelled_cases(config, results, steps)
    split = split_cases([SourceCase(case) for case in cases], config.data)
    if split.test_is_validation:
        raise UserError(
            f"{source}: too few patients for a validation set of their own; what is chosen on the test set would flatter the verdict"
        )
    return [case.case for case in split.validation]


@dataclass(frozen=True)
class Vote:
    """A validation case with what the network says about it, before anything is decided."""

    case_id: str
    prepared: object
    """PreparedScan."""
    probability: torch.Tensor
    """float16 (K, x, y, z) on the CPU, on the box of `prepared`."""
    truth: np.ndarray
    """uint8 (x, y, z), internal classes, the source's grid."""
    spacing_mm: tuple


@dataclass(frozen=True)
class Step:
    """One setting that was tried. scores: {value as text: mean Dice on the validation set}; chosen: the value that stays."""

    setting: str
    scores: dict
    chosen: str


def votes_on(predictor, cases, *, progress=lambda done, total: None):
    """The Votes of a Predictor on labelled Cases."""
    votes = []
    for case in cases:
        scan = read_scan(case)
        prepared = predictor.prepare(scan)
        probability = predictor.vote(predictor.member_probabilities(prepared)).half().cpu()
        votes.append(Vote(case.id, prepared, probability, scan.label, scan.spacing_mm))
        progress(len(votes), len(cases))
    return votes


def tune(predictor, votes, *, rule=LEGACY, challenge="auto", progress=lambda done, total: None):
    """(PostprocessConfig, list of Step): what is best for the mean over cases and regions of Dice under `rule`."""
    challenge = CHALLENGES[challenge_of(challenge, [vote.case_id for vote in votes])]
    tried, total = 0, len(THRESHOLDS) * 3 + len(COMPONENT_VOXELS) * 3 + len(ET_VOXELS)
    best = PostprocessConfig()
    best_score = mean_dice(predictor, votes, best, rule, challenge)
    steps = []
    for setting, candidates in _candidates():
        scores = {}
        for value, change in candidates:
            scores[str(value)] = mean_dice(predictor, votes, change(best), rule, challenge)
            progress(tried := tried + 1, total)
        value, change = max(candidates, key=lambda candidate: scores[str(candidate[0])])
        gains = scores[str(value)] >= best_score + LEAST_GAIN
        if gains:
            best, best_score = change(best), scores[str(value)]
        steps.append(Step(setting, scores, str(value) if gains else "off"))
    return best, steps


def mean_dice(predictor, votes, config, rule, challenge):
    """Mean over cases and regions under one rule, with `config` as post-processing."""
    decider, scores = Predictor(predictor.members, config), []
    for vote in votes:
        pred = vote.prepared.whole(
            decider.decide(vote.probability.to(predictor.device).float(), vote.prepared)
        )
        if rule == LEGACY:
            scores.append(dice(pred, vote.truth)["mean"])
        else:
            scores += [
                row["dice"]
                for row in score_case(
                    vote.case_id, pred, vote.truth, vote.spacing_mm, (rule,), challenge
                )
            ]
    return float(np.mean(scores))


def _candidates():
    """(name of the setting, list of (value, function from a PostprocessConfig to one with that value)), in the order they are tried."""
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
    yield (
        "smallest ET, voxels",
        [
            (value, lambda config, value=value: dataclasses.replace(config, min_et_voxels=value))
            for value in ET_VOXELS
        ],
    )


def _replacing(name, place, value, off):
    """A function that gives a PostprocessConfig another value at one place of the tuple `name`; `off` is what stands for ()."""

    def change(config):
        values = list(getattr(config, name) or off)
        values[place] = value
        return dataclasses.replace(config, **{name: tuple(values)})

    return change


def write_choice(path, settings, steps, cases, rule):
    """The settings as postprocessing.json at `path`, and beside it how they were chosen; returns both paths."""
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


def render(steps, console):
    """A line for each setting: what was tried, what it scored and what stays."""
    from rich.table import Table

    table = Table("setting", "mean Dice on the validation set by value", "chosen", box=None)
    for step in steps:
        scores = "  ".join(
            f"{value}: {points(score, decimals=2)}" for value, score in step.scores.items()
        )
        table.add_row(step.setting, scores, step.chosen)
    console.print(table)
    console.print(
        "These scores flatter: the settings were chosen on the same cases. The test set has not been read.",
        highlight=False,
    )
