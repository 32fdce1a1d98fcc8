"""The picture of the paired differences: every contrast on every region."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from segmamba.reports.style import (
    INK,
    MUTED,
    NARROW_LINE,
    WIDTH_IN,
    arm_colours,
    draw_margin,
    new_figure,
    short_name,
)
from segmamba.reports.tables import decisive_first
from segmamba.studies.comparisons import ContrastResult, compare_arms
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study
from segmamba.studies.words import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL, LABEL_NARROW = 30, 22
"""Characters of a line of a row's label, also in a narrow picture."""
NEAR = 2.5  # multiple of the largest estimate up to which intervals are shown


def draw_differences(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw a forest plot of every paired difference, the region that decides first.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its regions below each other,
            each with its own estimates.

    Returns:
        Estimates with 95 % intervals and seeds; None where no trials could be paired.
    """
    results = compare_arms(study)
    if not any(d.seeds for d in _differences(results)):
        return None
    decides, narrow = study.hypothesis.regions[0], width_in < WIDTH_IN
    regions = decisive_first(study, decides)
    characters = LABEL_NARROW if narrow else LABEL
    labels = {
        region: [_row_label(result.regions[region], characters) for result in results]
        for region in (regions if narrow else [decides])
    }
    lines = max(label.count("\n") for of_region in labels.values() for label in of_region)
    row_in = max(0.46, 0.14 * lines + 0.28)
    if narrow:
        figure = new_figure(1.0 + len(regions) * (0.42 + len(results) * row_in), width_in)
        panels = figure.subplots(len(regions), 1, sharex=True, squeeze=False)[:, 0]
    else:
        figure = new_figure(0.8 + len(results) * row_in)
        widths = [1.7] + [1] * (len(regions) - 1)
        panels = figure.subplots(
            1, len(regions), sharex=True, sharey=True, squeeze=False, width_ratios=widths
        )[0]
    for panel, region in zip(panels, regions, strict=True):
        _draw_region(panel, study, results, region)
        if region in labels:
            panel.set_yticks([-y for y in range(len(results))], labels[region])
            for tick, result in zip(panel.get_yticklabels(), results, strict=True):
                tick.set_fontweight("bold" if result.decides and region == decides else "normal")
        panel.tick_params(axis="x", labelbottom=True)
    metric = METRICS[study.hypothesis.metric]
    what = "improvement" if not metric.higher_is_better else "difference"
    words = (
        f"{what} in {metric.unit}; bars: the interval that decides, elsewhere 95 %; dots: seeds; "
        f"grey: ±{amount(study.hypothesis.margin, metric)} margin"
    )
    figure.supxlabel(textwrap.fill(words, NARROW_LINE) if narrow else words, fontsize=8)
    return figure


def _differences(results: Sequence[ContrastResult]) -> Iterator[Difference]:
    """Every difference."""
    for result in results:
        yield from result.regions.values()


def _draw_region(panel: Axes, study: Study, results: Sequence[ContrastResult], region: str) -> None:
    """Every difference on one region, a row each."""
    colours = arm_colours(study)
    scale = METRICS[study.hypothesis.metric].scale
    margin = scale * study.hypothesis.margin
    limits = _limits(results, study.hypothesis.margin, scale)
    draw_margin(panel, margin)
    panel.axvline(0, color=MUTED, lw=0.8, zorder=1)
    for y, result in enumerate(results):
        difference = result.regions[region]
        _draw_interval(panel, -y, difference, colours.get(difference.arm, INK), limits)
    title = "mean of regions" if region == "mean" else region
    decides = region == study.hypothesis.regions[0]
    panel.set_title(
        f"{title} (decides)" if decides else title, fontweight="bold" if decides else "normal"
    )
    panel.tick_params(axis="y", length=0, pad=7)
    panel.locator_params(axis="x", nbins=4)
    panel.set(xlim=limits, ylim=(0.55 - len(results), 0.5))


def _limits(results: Sequence[ContrastResult], margin: float, scale: float) -> tuple[float, float]:
    """The ends of the x axis, in the reader's unit, that show every estimate and every seed.

    Intervals of two seeds may reach far beyond them and end in an arrow.
    """
    measured = [d for d in _differences(results) if d.seeds]
    estimates = [v for d in measured for v in (d.mean, *d.seed_differences) if math.isfinite(v)]
    near = NEAR * max([2 * margin, *map(abs, estimates)])
    lows = [v for d in measured for v in (d.low, *d.seed_differences) if math.isfinite(v)]
    highs = [v for d in measured for v in (d.high, *d.seed_differences) if math.isfinite(v)]
    low = min([-1.3 * margin, *(max(v, -near) for v in lows)])
    high = max([1.3 * margin, *(min(v, near) for v in highs)])
    pad = 0.06 * (high - low)
    return scale * (low - pad), scale * (high + pad)


def _draw_interval(
    panel: Axes, y: float, difference: Difference, colour: str, limits: tuple[float, float]
) -> None:
    """One row: the seeds as dots, the estimate, and its interval cut at the limits."""
    if not math.isfinite(difference.mean):
        middle = float(np.mean(limits))
        panel.text(middle, y, "no pair", color=MUTED, ha="center", va="center", fontsize=7)
        return
    scale = difference.metric.scale
    panel.plot(
        [scale * v for v in difference.seed_differences],
        [y - 0.2] * len(difference.seed_differences),
        "o",
        color=colour,
        ms=2.6,
        alpha=0.6,
        mew=0,
    )
    measured = math.isfinite(difference.low)
    panel.plot(
        scale * difference.mean,
        y,
        "D",
        color=colour,
        ms=5,
        mfc=colour if measured else "none",
        zorder=4,
    )
    if not measured:
        return
    whole = (scale * difference.low, scale * difference.high)
    ends = np.clip(whole, *limits)
    panel.plot(ends, [y, y], color=colour, lw=1.8, solid_capstyle="butt", zorder=3)
    for end, real, arrow in zip(ends, whole, "<>", strict=True):
        mark = arrow if end != real else "|"
        panel.plot(end, y, mark, color=colour, ms=5, clip_on=False, zorder=4)


def _row_label(difference: Difference, characters: int) -> str:
    """The contrast in lines of so many characters, its estimate and its interval."""
    contrast = (
        f"{short_name(difference.arm)} {MINUS} {short_name(difference.versus)}"
        if difference.versus
        else difference.label
    )
    name = textwrap.fill(contrast, characters)
    if not difference.seeds:
        return name
    metric = difference.metric
    estimate = amount(difference.mean, metric, signed=True)
    if not math.isfinite(difference.low):
        return f"{name}\n{estimate}"
    low, high = (amount(v, metric, signed=True) for v in (difference.low, difference.high))
    return f"{name}\n{estimate} [{low}, {high}]"
