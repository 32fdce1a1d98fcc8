"""The picture that answers: the contrasts of the first claim, against the smallest that matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segmamba.reports.style import (
    INK,
    MUTED,
    WIDTH_IN,
    arm_colours,
    draw_margin,
    new_figure,
    short_name,
)
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study
from segmamba.studies.words import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_IN, AROUND_IN = 0.62, 0.95
NARROW_IN = 3.6
"""Width of the picture that a small screen shows."""
NEAR = 2.5
"""Multiple of the largest estimate, or of the double margin, up to which intervals are shown."""


def draw_answer(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw what the first claim is decided by.

    Args:
        study: The study.
        width_in: Width of the figure in inches.

    Returns:
        A row for each contrast of the claim and region that decides: the estimate, the interval
        that decides, its seeds as dots, and the margin's band. None where nothing was paired.
    """
    shown = deciding_differences(study)
    if not shown:
        return None
    claim = study.hypothesis
    metric = METRICS[claim.metric]
    margin = metric.scale * claim.margin
    limits = _limits(shown, margin)
    figure = new_figure(AROUND_IN + ROW_IN * len(shown), width_in)
    panel = figure.subplots()
    draw_margin(panel, margin)
    panel.axvline(0, color=MUTED, lw=0.8, zorder=1)
    colours = arm_colours(study)
    for y, difference in enumerate(shown):
        _draw_row(panel, -y, difference, colours.get(difference.arm, INK), limits)
    panel.set(xlim=limits, ylim=(0.45 - len(shown), 0.62), yticks=[])
    panel.spines["left"].set_visible(False)
    panel.locator_params(axis="x", nbins=7 if width_in == WIDTH_IN else 5)
    panel.set_title(
        f"grey: under the {amount(claim.margin, metric)} {metric.unit} that matter"
        if width_in == WIDTH_IN
        else f"grey: under {amount(claim.margin, metric)}, too little to matter",
        fontsize=8,
        color=MUTED,
        fontweight="normal",
    )
    what = "difference" if metric.higher_is_better else "improvement"
    regions = " and ".join(claim.regions)
    panel.set_xlabel(f"{what} of {regions} {metric.words}, {metric.unit}")
    return figure


def deciding_differences(study: Study) -> list[Difference]:
    """The measured differences of the first claim's contrasts on its regions.

    Args:
        study: The study.

    Returns:
        They, in the claim's order, with the intervals that decide.
    """
    found = [
        result.regions[region]
        for result in compare_arms(study)
        if result.decides
        for region in study.hypothesis.regions
        if region in result.regions
    ]
    return [difference for difference in found if math.isfinite(difference.mean)]


def _limits(shown: Sequence[Difference], margin: float) -> tuple[float, float]:
    """The ends of the axis: 0, the margin, every seed, and most of every interval."""
    scale = shown[0].metric.scale
    values = [scale * v for d in shown for v in (d.mean, *d.seed_differences) if math.isfinite(v)]
    near = NEAR * max([2 * margin, *map(abs, values)])
    ends = [scale * v for d in shown for v in (d.low, d.high) if math.isfinite(v)]
    kept = [min(max(end, -near), near) for end in ends]
    low, high = min([-1.6 * margin, *values, *kept]), max([1.6 * margin, *values, *kept])
    pad = 0.05 * (high - low)
    return low - pad, high + pad


def _draw_row(
    panel: Axes, y: float, difference: Difference, colour: str, limits: tuple[float, float]
) -> None:
    """The contrast in words, and below the words its estimate, interval and seeds."""
    metric, scale = difference.metric, difference.metric.scale
    name = (
        f"{short_name(difference.arm)} {MINUS} {short_name(difference.versus)}"
        if difference.versus
        else difference.label
    )
    measured = math.isfinite(difference.low)
    text = amount(difference.mean, metric, signed=True)
    if measured:
        low, high = (amount(v, metric, signed=True) for v in (difference.low, difference.high))
        text += f" [{low}, {high}]"
    across = panel.get_yaxis_transform()
    panel.text(0, y + 0.36, name, transform=across, va="center", fontsize=8.5, fontweight="bold")
    panel.text(1, y + 0.36, text, transform=across, va="center", ha="right", fontsize=8.5)
    if measured:
        whole = (scale * difference.low, scale * difference.high)
        ends = np.clip(whole, *limits)
        panel.plot(ends, [y, y], color=colour, lw=2.4, solid_capstyle="butt", zorder=3)
        for end, real, arrow in zip(ends, whole, "<>", strict=True):
            mark = "|" if end == real else arrow
            panel.plot(end, y, mark, color=colour, ms=7, mew=1.6, clip_on=False, zorder=4)
    seeds = [scale * v for v in difference.seed_differences]
    panel.plot(seeds, [y - 0.22] * len(seeds), "o", color=colour, ms=3.4, alpha=0.65, mew=0)
    face = colour if measured else "none"
    panel.plot(scale * difference.mean, y, "D", color=colour, mfc=face, ms=7, zorder=5)
