"""The picture that answers: the contrasts of the first claim, against the smallest that matters."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segmamba.reports.style import (
    INK,
    MUTED,
    NARROW_IN,
    PAPER,
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

LINE_IN, INTERVAL_IN, AROUND_IN = 0.17, 0.42, 0.75
"""Heights of a line of words, of the interval and its seeds below them, and of all around."""
CHARACTERS = {WIDTH_IN: 64, NARROW_IN: 44}
"""Of a line of words by the width of the picture."""
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
    words = [_words(difference, width_in) for difference in shown]
    heights_in = [LINE_IN * (text.count("\n") + 1) + INTERVAL_IN for text in words]
    figure = new_figure(AROUND_IN + sum(heights_in), width_in)
    panel = figure.subplots()
    draw_margin(panel, margin)
    panel.axvline(0, color=MUTED, lw=0.8, zorder=1)
    colours, top_in = arm_colours(study), 0.0
    for difference, text, height_in in zip(shown, words, heights_in, strict=True):
        panel.text(
            0,
            top_in,
            text,
            transform=panel.get_yaxis_transform(),
            va="top",
            fontsize=9,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 2.0},
            zorder=6,
        )
        top_in -= height_in
        y = top_in + 0.6 * INTERVAL_IN
        _draw_row(panel, y, difference, colours.get(difference.arm, INK), limits)
    panel.set(xlim=limits, ylim=(top_in, 0.0), yticks=[])
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


def _words(difference: Difference, width_in: float) -> str:
    """The contrast, its estimate and its interval, in lines that fit."""
    metric = difference.metric
    name = (
        f"{short_name(difference.arm)} {MINUS} {short_name(difference.versus)}"
        if difference.versus
        else difference.label
    )
    text = amount(difference.mean, metric, signed=True)
    if math.isfinite(difference.low):
        low, high = (amount(v, metric, signed=True) for v in (difference.low, difference.high))
        text += f" [{low}, {high}]"
    most = CHARACTERS[width_in]
    whole = f"{name}:  {text}"
    return whole if len(whole) <= most else f"{textwrap.fill(name, most)}\n{text}"


def _draw_row(
    panel: Axes, y: float, difference: Difference, colour: str, limits: tuple[float, float]
) -> None:
    """The estimate, its interval and its seeds; y: inches from the top, as all heights here."""
    scale, measured = difference.metric.scale, math.isfinite(difference.low)
    if measured:
        whole = (scale * difference.low, scale * difference.high)
        ends = np.clip(whole, *limits)
        panel.plot(ends, [y, y], color=colour, lw=2.4, solid_capstyle="butt", zorder=3)
        for end, real, arrow in zip(ends, whole, "<>", strict=True):
            mark = "|" if end == real else arrow
            panel.plot(end, y, mark, color=colour, ms=7, mew=1.6, clip_on=False, zorder=4)
    seeds = [scale * v for v in difference.seed_differences]
    panel.plot(seeds, [y - 0.12] * len(seeds), "o", color=colour, ms=3.4, alpha=0.65, mew=0)
    face = colour if measured else "none"
    panel.plot(scale * difference.mean, y, "D", color=colour, mfc=face, ms=7, zorder=5)
