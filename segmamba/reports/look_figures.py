"""The picture of a study that adds seeds: estimates, repeated intervals and boundaries by seed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segmamba.reports.style import (
    INK,
    MUTED,
    NARROW_LINE,
    PAPER,
    WIDTH_IN,
    arm_colours,
    draw_margin,
    new_figure,
    short_name,
)
from segmamba.studies.hypothesis import MINUS, Hypothesis
from segmamba.studies.looks import STOPPED, ContrastLook, State
from segmamba.studies.metrics import metric_of
from segmamba.studies.results import Study
from segmamba.studies.words import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
NEAR = 2.0  # multiple of the largest estimate, or of the margin's double, up to which is shown
STATE_WORDS: dict[State, str] = {
    "gained": "gains",
    "below": "below the margin",
    "within": "within the margin",
    "outside": "outside the margin",
    "futile": "given up",
    "continues": "open",
    "missing": "not measured",
}


def draw_looks(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw every contrast of a study's claim as its looks saw it, a panel each.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        Estimates with repeated 95 % intervals over seeds, the boundary of each look, the margin's
        band, and where each contrast stopped; None where no look was taken.
    """
    if not study.looks or not study.looks[-1].contrasts:
        return None
    claim, last = study.hypothesis, study.looks[-1]
    metric = metric_of(claim.score)
    courses = [_course(study, contrast.key) for contrast in last.contrasts]
    narrow = width_in < WIDTH_IN
    columns = 1 if narrow else min(COLUMNS, len(courses))
    lines = -(-len(courses) // columns)
    figure = new_figure(0.55 + (2.3 if lines == 1 else 1.75 * lines), width_in)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels = [panel for row in grid for panel in row]
    limits = _limits(courses, claim)
    colours = arm_colours(study)
    for panel, course in zip(panels, courses, strict=False):
        _draw_course(panel, course, claim, colours.get(course[-1].arm, INK), limits)
        panel.set_xlim(2.5, study.max_seeds + 0.5)
        panel.locator_params(axis="x", integer=True)
    for panel in panels[len(courses) :]:
        panel.set_axis_off()
    for column in range(columns):  # the lowest panel of every column shows its seeds
        lowest = panels[[i for i in range(len(courses)) if i % columns == column][-1]]
        lowest.tick_params(axis="x", labelbottom=True)
    figure.supylabel(f"difference, {metric.unit}", fontsize=8)
    words = (
        f"seeds, of at most {study.max_seeds}; bars: repeated 95 % interval, "
        f"{_boundary_words(claim)}, grey: ±{amount(claim.margin, metric)} margin"
    )
    figure.supxlabel(textwrap.fill(words, NARROW_LINE) if narrow else words, fontsize=8)
    return figure


def _boundary_words(claim: Hypothesis) -> str:
    if claim.direction == "alike":
        return "black: estimates beyond lie outside the margin"
    return "black: the estimate it takes to gain"


def _course(study: Study, key: tuple[str, str, str]) -> list[ContrastLook]:
    """What each look saw of a contrast, up to the one at which it stopped."""
    seen = [c for look in study.looks for c in look.contrasts if c.key == key]
    return list({contrast.seeds: contrast for contrast in seen}.values())


def _limits(courses: Sequence[Sequence[ContrastLook]], claim: Hypothesis) -> tuple[float, float]:
    """The ends of the y axis, in the tables' unit: every estimate and most of the intervals."""
    looks = [look for course in courses for look in course if math.isfinite(look.mean)]
    near = NEAR * max([2 * claim.margin, *(abs(look.mean) for look in looks)])
    lows = [v for look in looks for v in (look.mean, look.low) if math.isfinite(v)]
    highs = [v for look in looks for v in (look.mean, look.high) if math.isfinite(v)]
    low = min([-1.5 * claim.margin, *(max(v, -near) for v in lows)])
    high = max([1.5 * claim.margin, *(min(v, near) for v in highs)])
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def critical_means(look: ContrastLook, claim: Hypothesis) -> tuple[float, ...]:
    """The estimates from which a contrast gains, or lies outside the margin, at a look.

    Args:
        look: The contrast at that look.
        claim: The claim.

    Returns:
        One estimate, two of a claim of likeness, none where there was no test.
    """
    if not math.isfinite(look.boundary):
        return ()
    if claim.direction == "alike":
        beyond = claim.margin + look.boundary
        return (beyond, -beyond)
    return (max(look.boundary, claim.margin),)


def _draw_course(
    panel: Axes,
    course: Sequence[ContrastLook],
    claim: Hypothesis,
    colour: str,
    limits: tuple[float, float],
) -> None:
    """One contrast: an interval for every look, the boundaries, and the end."""
    (low, high), scale = limits, metric_of(claim.score).scale
    draw_margin(panel, scale * claim.margin, axis="y")
    panel.axhline(0, color=MUTED, lw=0.8, zorder=1)
    for look in course:
        if math.isfinite(look.low):
            ends = max(look.low, low), min(look.high, high)
            panel.plot(
                [look.seeds] * 2,
                [scale * v for v in ends],
                color=colour,
                lw=1.6,
                zorder=3,
                solid_capstyle="butt",
            )
            for end, whole, arrow in zip(ends, (look.low, look.high), "v^", strict=True):
                mark = arrow if end != whole else "_"
                panel.plot(look.seeds, scale * end, mark, color=colour, ms=4, clip_on=False)
        if math.isfinite(look.mean):
            stopped = look.state in STOPPED
            panel.plot(
                look.seeds,
                scale * look.mean,
                "D" if stopped else "o",
                color=colour,
                ms=6.5 if stopped else 4,
                mfc=colour if stopped else PAPER,
                zorder=4,
            )
        for critical in critical_means(look, claim):
            if low <= critical <= high:
                panel.plot(
                    [look.seeds - 0.36, look.seeds + 0.36],
                    [scale * critical] * 2,
                    color=INK,
                    lw=1.1,
                    zorder=5,
                )
    last = course[-1]
    panel.set_ylim(scale * low, scale * high)
    panel.set_title(_title(last, claim), fontsize=8)


def _title(end: ContrastLook, claim: Hypothesis) -> str:
    """The contrast, and where it stands after its last look."""
    name = f"{short_name(end.arm)} {MINUS} {short_name(end.versus)}" if end.versus else end.label
    region = f" on {end.region}" if len(claim.regions) > 1 else ""
    stands = f"{STATE_WORDS[end.state]} after {end.seeds} seeds"
    return "\n".join([*textwrap.wrap(name + region, 32), stands])
