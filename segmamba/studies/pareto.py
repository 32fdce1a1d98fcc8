"""What a Dice point costs: which arms no other arm beats in both Dice and a cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.studies.arm_means import mean_interval
from segmamba.studies.contrasts import Difference, difference
from segmamba.studies.results import Study, Trial
from segmamba.studies.scores import finished_trials, seed_scores
from segmamba.studies.standing import sampled_means

COLUMN = "dice_mean"
"""The score of the per-case tables that is set against the costs."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs, as a metric of its trials. Less is better."""

    key: str
    metric: str
    title: str
    needs_gpu: bool = False


COSTS = (
    Cost(key="training", metric="time/train_total_s", title="training time"),
    Cost(key="inference", metric="time/predict_case_s", title="inference time of a case"),
    Cost(key="memory", metric="memory/gpu_peak_gib", title="GPU memory", needs_gpu=True),
    Cost(key="parameters", metric="model/parameters", title="parameters"),
)


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """An arm's place in the plane of a cost and Dice."""

    arm: str
    cost: float
    """The mean over its finished trials, in the metric's unit."""
    low: float
    high: float
    """The least and the largest of these trials' costs."""
    dice: float
    """The mean over seeds of the test set's mean Dice, from 0 to 1."""
    dice_low: float
    dice_high: float
    """The ends of its 95 % interval over seeds and patients; NaN where there is none."""
    behind: str = ""
    """The arm with the most Dice among those that are no worse in both and better in one; empty on
    the front."""
    gap: Difference | None = None
    """That arm's Dice minus its own, of the same seeds and patients."""
    share: float = math.nan
    """Share of bootstrap samples of seeds and patients with which it is on the front; NaN where
    they cannot be drawn. The costs stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Front:
    """The arms of a study against one cost."""

    cost: Cost
    arms: tuple[ArmCost, ...]
    """In the study's order; those alone of which both are known."""
    notes: tuple[str, ...]
    """What is left out and why, a sentence each."""

    @property
    def best(self) -> list[ArmCost]:
        """The arms on the front, from the cheapest."""
        return sorted((arm for arm in self.arms if not arm.behind), key=lambda arm: arm.cost)


def fronts(study: Study) -> list[Front]:
    """Set the arms of a study against every cost.

    Args:
        study: The study, finished or not.

    Returns:
        A Front for each of COSTS; without arms where no finished trial has measured the cost. []
        where nothing was tested.
    """
    dice = {arm: list(seed_scores(study, arm, COLUMN).values()) for arm in study.arms}
    means = {arm: statistics.fmean(scores) for arm, scores in dice.items() if scores}
    if not means:
        return []
    sampled = sampled_means(study, COLUMN)
    return [_front(study, cost, means, sampled) for cost in COSTS]


def _front(
    study: Study, cost: Cost, dice: dict[str, float], sampled: tuple[list[str], np.ndarray]
) -> Front:
    found: dict[str, list[float]] = {}
    notes: list[str] = []
    for arm in dice:
        values, wrong = _costs(finished_trials(study, arm), cost)
        notes += wrong
        if values:
            found[arm] = values
    if not found:
        cpu = cost.needs_gpu and study.environment.get("gpu") == "none"
        why = "the trials ran on a CPU" if cpu else f"no finished trial has {cost.metric}"
        return Front(cost=cost, arms=(), notes=(*notes, f"{cost.title}: not drawn, {why}"))
    notes += [
        f"{arm}: no {cost.title}, left out of its picture" for arm in dice if arm not in found
    ]
    spent = {arm: statistics.fmean(values) for arm, values in found.items()}
    shares = _shares(spent, *sampled)
    return Front(
        cost=cost,
        arms=tuple(_place(study, arm, found[arm], spent, dice, shares) for arm in found),
        notes=tuple(notes),
    )


def _costs(trials: Sequence[Trial], cost: Cost) -> tuple[list[float], list[str]]:
    """The costs of trials that have one, and a sentence for each that cannot be."""
    metric = cost.metric
    measured = [(t, t.metrics[metric]) for t in trials if metric in t.metrics]
    return (
        [value for _, value in measured if _possible(value)],
        [
            f"{trial.key}: {metric} is {value:g}, which cannot be; left out"
            for trial, value in measured
            if not _possible(value)
        ],
    )


def _possible(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _place(
    study: Study,
    arm: str,
    values: Sequence[float],
    spent: dict[str, float],
    dice: dict[str, float],
    shares: dict[str, float],
) -> ArmCost:
    better = [
        other
        for other in spent
        if spent[other] <= spent[arm]
        and dice[other] >= dice[arm]
        and (spent[other], dice[other]) != (spent[arm], dice[arm])
    ]
    behind = max(better, key=lambda other: (dice[other], -spent[other]), default="")
    low, high = mean_interval(study, arm, COLUMN) or (math.nan, math.nan)
    return ArmCost(
        arm=arm,
        cost=spent[arm],
        low=min(values),
        high=max(values),
        dice=dice[arm],
        dice_low=low,
        dice_high=high,
        behind=behind,
        gap=difference(study, behind, arm, "mean", "dice") if behind else None,
        share=shares.get(arm, math.nan),
    )


def _shares(spent: dict[str, float], arms: list[str], means: np.ndarray) -> dict[str, float]:
    """Arm to the share of bootstrap samples, as `sampled_means` has them, with it on the front."""
    kept = [place for place, arm in enumerate(arms) if arm in spent]
    if not kept:
        return {}
    names, means = [arms[place] for place in kept], means[:, kept]
    cost = np.array([spent[name] for name in names])
    cheaper, as_cheap = cost[None, :] < cost[:, None], cost[None, :] <= cost[:, None]
    higher = means[:, None, :] > means[:, :, None]
    as_high = means[:, None, :] >= means[:, :, None]
    beaten = ((as_cheap & higher) | (cheaper & as_high)).any(-1)
    return dict(zip(names, (1 - beaten.mean(0)).tolist(), strict=True))
