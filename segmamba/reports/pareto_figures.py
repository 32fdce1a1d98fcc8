"""The picture of what a Dice point costs: every arm against every cost, with the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segmamba.reports.style import (
    INK,
    RULE,
    WIDTH_IN,
    add_arm_legend,
    arm_colours,
    mark,
    new_figure,
)
from segmamba.reports.units import unit_of
from segmamba.studies.pareto import COSTS, ArmCost, Front, fronts
from segmamba.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 20.0
"""The ratio of the largest cost to the least from which on the axis is logarithmic."""
NEAR = 2.5
"""Multiple of the spread of the arms' Dice up to which intervals are shown."""
LEAST = 0.01
"""The least such spread: one Dice point."""
PANEL_IN = 2.4
MOST_TICKS = 4
"""Intervals between the ticks of a cost; with more, numbers such as 54.175 touch."""


def draw_pareto(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw mean Dice against every cost that was measured.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        A mark for each arm, filled on the front; its interval of Dice, and the range of its trials'
        cost; the front as a line. None where no cost is known.
    """
    drawn = [front for front in fronts(study) if front.arms]
    if not drawn:
        return None
    columns = 2 if len(drawn) == len(COSTS) else len(drawn)
    if width_in < WIDTH_IN:
        columns = 1
    lines = -(-len(drawn) // columns)
    figure = new_figure(0.45 + PANEL_IN * lines, width_in)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    panels = [panel for line in grid for panel in line]
    limits = _limits([arm for front in drawn for arm in front.arms])
    for panel, front in zip(panels, drawn, strict=False):
        _draw(panel, study, front, limits)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    for line in grid:
        line[0].set_ylabel("test mean Dice (points)")
    add_arm_legend(figure, study, "marks")
    return figure


def _limits(arms: Sequence[ArmCost]) -> tuple[float, float]:
    """The ends of the axis of Dice in points: every mean, and most of the intervals."""
    means = [arm.dice for arm in arms]
    near = NEAR * max(LEAST, max(means) - min(means))
    low = min(max(_or(arm.dice_low, arm.dice), min(means) - near) for arm in arms)
    high = max(min(_or(arm.dice_high, arm.dice), max(means) + near) for arm in arms)
    pad = max(0.08 * (high - low), 0.2 * LEAST)
    return 100 * max(low - pad, -LEAST), 100 * min(high + pad, 1 + LEAST)  # of 0 to 100 points


def _or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other


def _draw(panel: Axes, study: Study, front: Front, limits: tuple[float, float]) -> None:
    """One cost."""
    colours, best = arm_colours(study), front.best
    unit, per = unit_of(front.cost, [arm.high for arm in front.arms])
    spent = [arm.cost / per for arm in front.arms]
    if max(spent) > WIDE * min(spent):
        panel.set_xscale("log")
    else:
        panel.locator_params(axis="x", nbins=MOST_TICKS)
    for arm in front.arms:
        colour, x, y = colours[arm.arm], arm.cost / per, 100 * arm.dice
        panel.plot([arm.low / per, arm.high / per], [y, y], color=colour, lw=1.2, zorder=2)
        if math.isfinite(arm.dice_low):
            _draw_interval(panel, x, arm, colour, limits)
        face = "none" if arm.behind else colour
        panel.plot(x, y, mark(study, arm.arm), color=colour, mfc=face, ms=6.5, zorder=4)
    panel.set(xlabel=f"{front.cost.title} ({unit})", ylim=limits)
    panel.margins(x=0.12)
    low, high = panel.get_xlim()
    panel.set_xlim(max(low, 0.0), high)  # nothing costs less than nothing
    # From each arm on the front, its Dice is to be had at its cost and at every higher one.
    xs = [*(arm.cost / per for arm in best), high]
    ys = [100 * arm.dice for arm in best]
    panel.step(xs, [*ys, ys[-1]], where="post", color=INK, lw=1, zorder=3)
    panel.grid(color=RULE, lw=0.6)
    panel.set_axisbelow(True)


def _draw_interval(
    panel: Axes, x: float, arm: ArmCost, colour: str, limits: tuple[float, float]
) -> None:
    """An arm's interval of Dice; an end beyond the limits is an arrow."""
    low, high = (min(max(100 * end, limits[0]), limits[1]) for end in (arm.dice_low, arm.dice_high))
    panel.plot([x, x], [low, high], color=colour, lw=1.2, zorder=2)
    for end, whole, arrow in zip((low, high), (arm.dice_low, arm.dice_high), "v^", strict=True):
        mark = "_" if math.isclose(end, 100 * whole) else arrow
        panel.plot(x, end, mark, color=colour, ms=4, clip_on=False, zorder=2)
