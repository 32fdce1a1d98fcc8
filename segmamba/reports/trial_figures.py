"""Pictures of the trials: their learning curves, and their Dice against a dose."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segmamba.reports.style import (
    MUTED,
    RULE,
    WIDTH_IN,
    add_arm_legend,
    arm_colours,
    line_style,
    new_figure,
    short_name,
)
from segmamba.studies.hypothesis import Hypothesis, Trend
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study, Trial
from segmamba.studies.scores import finished_trials, seed_scores, trial_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHORT_CURVE = 5  # points; a curve of so few needs marks, and one of a single point is only a mark
MOST_LINES = 200
"""Curves of an arm that a page draws as lines; more of them become a picture of dots."""


class Quantity(NamedTuple):
    """A metric and how it is drawn."""

    metric: str
    label: str
    scale: float


CURVES = (
    Quantity("val/dice_mean", "validation mean Dice (points)", 100),
    Quantity("train/loss", "training loss", 1),
)


def draw_curves(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw validation Dice and training loss over the epochs.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        A thin line for each trial and a thick one for the mean of an arm's finished trials; None
        where no trial has a curve.
    """
    if not any(trial.history.get(q.metric) for trial in study.trials for q in CURVES):
        return None
    lines, columns = (1, 2) if width_in == WIDTH_IN else (2, 1)
    figure = new_figure(0.5 + 2.4 * lines, width_in)
    for panel, quantity in zip(figure.subplots(lines, columns), CURVES, strict=True):
        for arm, colour in arm_colours(study).items():
            trials = [trial for trial in study.trials if trial.arm == arm]
            _draw_arm_curves(panel, trials, quantity, colour, line_style(study, arm))
        panel.set(xlabel="epoch", title=quantity.label)
        panel.locator_params(axis="x", integer=True, min_n_ticks=1)
        panel.grid(axis="y", color=RULE, lw=0.6)
    add_arm_legend(figure, study, "lines")
    return figure


def _draw_arm_curves(
    panel: Axes, trials: Sequence[Trial], quantity: Quantity, colour: str, style: str
) -> None:
    from matplotlib.collections import LineCollection

    values: dict[int, list[float]] = {}
    thin: list[list[tuple[int, float]]] = []
    short: list[tuple[int, float]] = []
    broken: list[tuple[int, float]] = []
    for trial in trials:
        curve = [
            (step, quantity.scale * value)
            for step, value in trial.history.get(quantity.metric, [])
            if math.isfinite(value)
        ]
        if not curve:
            continue
        thin.append(curve)
        if _mark(curve):
            short += curve
        if trial.status == "FINISHED":
            for step, value in curve:
                values.setdefault(step, []).append(value)
        else:
            broken.append(curve[-1])
    # One artist each, however many trials: thousands of their own take a minute. As a picture,
    # thousands of lines take a hundredth of their space on the page.
    dots = len(thin) > MOST_LINES
    if short:
        panel.plot(*zip(*short, strict=True), "o", color=colour, alpha=0.45, ms=3, rasterized=dots)
    if broken:
        panel.plot(*zip(*broken, strict=True), "x", color=colour, ms=5)
    panel.add_collection(
        LineCollection(
            thin, colors=colour, linewidths=0.7, alpha=0.45, linestyles=style, rasterized=dots
        )
    )
    panel.autoscale_view()
    if values:
        steps = sorted(values)
        panel.plot(
            steps,
            [np.mean(values[step]) for step in steps],
            color=colour,
            lw=1.8,
            ls=style,
            marker=_mark(steps),
            ms=5,
        )


def _mark(curve: Sized) -> str:
    return "o" if len(curve) <= SHORT_CURVE else ""


def _arm_mean(study: Study, arm: str, column: str, scale: float) -> float:
    """The mean over an arm's seeds of a column, times `scale`; NaN where nothing was measured."""
    scores = [scale * score for score in seed_scores(study, arm, column).values()]
    return float(np.mean(scores)) if scores else math.nan


def draw_doses(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw Dice against the dose of each trend that the study claims.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        A small mark for each trial and a large one for the mean of its arm; None where no claim is
        about a trend.
    """
    trends = [
        (claim, contrast)
        for claim in study.claims
        for contrast in claim.contrasts
        if isinstance(contrast, Trend)
    ]
    if not trends:
        return None
    lines, columns = (1, len(trends)) if width_in == WIDTH_IN else (len(trends), 1)
    figure = new_figure(2.5 * lines, width_in)
    panels = figure.subplots(lines, columns, squeeze=False)
    for panel, (claim, trend) in zip(panels.flat, trends, strict=True):
        _draw_trend(panel, study, claim, trend)
    return figure


def _draw_trend(panel: Axes, study: Study, claim: Hypothesis, trend: Trend) -> None:
    metric, colours = METRICS[claim.metric], arm_colours(study)
    column = f"{metric.column}_{claim.regions[0]}"
    means: dict[float, float] = {}
    for arm, dose in trend.doses.items():
        scores = [trial_score(study, trial, column) for trial in finished_trials(study, arm)]
        found = [metric.scale * score for score in scores if math.isfinite(score)]
        if found:
            panel.plot(
                [dose] * len(found), found, "o", color=colours[arm], ms=3.5, alpha=0.5, mew=0
            )
            means[dose] = _arm_mean(study, arm, column, metric.scale)
            panel.plot(dose, means[dose], "D", color=colours[arm], ms=7, zorder=3)
    panel.plot(list(means), list(means.values()), color=MUTED, lw=1, zorder=1)
    panel.set_xticks(list(trend.doses.values()), [short_name(arm) for arm in trend.doses])
    unit = "mm" if metric.unit == "mm" else "points"
    panel.set_ylabel(f"test {claim.regions[0]} {metric.words} ({unit})")
    panel.grid(axis="y", color=RULE, lw=0.6)
