"""The picture and the table of Dice by subset of the modalities."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segmamba.data.labels import MODALITIES
from segmamba.reports.style import (
    INK,
    MUTED,
    RULE,
    WIDTH_IN,
    add_arm_legend,
    arm_colours,
    mark,
    new_figure,
    short_name,
)
from segmamba.studies.contrasts import Difference
from segmamba.studies.modality_subsets import SubsetRow, subset_rows
from segmamba.studies.results import Study
from segmamba.studies.words import points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW_IN = 0.21
BETWEEN = 0.22  # rows between the marks of two arms, together
NEAR = 2.0  # multiple of the largest estimate up to which intervals of differences are shown


def draw_subsets(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw the mean Dice by subset: which modalities are there, the arms, and their differences.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        The figure; None where no trial was tested with subsets.
    """
    rows = subset_rows(study)
    if not rows:
        return None
    height_in = ROW_IN * len(rows)
    if width_in == WIDTH_IN:
        figure = new_figure(0.9 + height_in)
        which, scores, differences = figure.subplots(1, 3, sharey=True, width_ratios=[1, 2.6, 2])
    else:
        figure = new_figure(1.4 + 2 * height_in, width_in)
        (which, scores), (again, differences) = figure.subplots(
            2, 2, sharey=True, width_ratios=[1, 1.6]
        )
        _draw_modalities(again, rows)
    _draw_modalities(which, rows)
    _draw_scores(scores, study, rows)
    _draw_differences(differences, study, rows)
    add_arm_legend(figure, study, "marks")
    return figure


def _draw_modalities(panel: Axes, rows: Sequence[SubsetRow]) -> None:
    """A filled mark for each modality that is there, as tables of the literature have it."""
    for y, row in enumerate(rows):
        if not row.modalities:
            panel.text(-0.4, -y, row.label, va="center", fontsize=7.5)
            continue
        for x, modality in enumerate(MODALITIES):
            face = INK if modality in row.modalities else "none"
            panel.plot(x, -y, "o", ms=4.5, mfc=face, mec=MUTED, mew=0.7)
    panel.set_xticks(range(len(MODALITIES)), MODALITIES)
    panel.xaxis.tick_top()
    panel.tick_params(axis="both", length=0)
    panel.set(yticks=[], xlim=(-0.5, len(MODALITIES) - 0.5), ylim=(0.6 - len(rows), 0.7))
    panel.spines[:].set_visible(False)


def _draw_scores(panel: Axes, study: Study, rows: Sequence[SubsetRow]) -> None:
    colours = arm_colours(study)
    offsets = np.linspace(BETWEEN, -BETWEEN, len(study.arms)) if len(study.arms) > 1 else [0.0]
    for arm, offset in zip(study.arms, offsets, strict=True):
        look = (colours[arm], mark(study, arm))
        for y, row in enumerate(rows):
            mean = row.means[arm]
            if mean.seeds:
                _draw(panel, -y + float(offset), mean, look, (0, 100))
    panel.set_title("mean Dice of the regions, points")
    _lines_between(panel, rows)


def _draw_differences(panel: Axes, study: Study, rows: Sequence[SubsetRow]) -> None:
    colours, found = arm_colours(study), [d for row in rows for d in row.differences.values()]
    estimates = [abs(v) for d in found for v in (d.mean, *d.seed_differences) if math.isfinite(v)]
    ends = [abs(v) for d in found for v in (d.low, d.high) if math.isfinite(v)]
    widest = 100 * min(NEAR * max(estimates, default=0.01), max([*ends, *estimates], default=0.01))
    limits = (-1.05 * widest, 1.05 * widest)
    others = [arm for arm in study.arms if arm != study.baseline]
    offsets = np.linspace(BETWEEN, -BETWEEN, len(others)) if len(others) > 1 else [0.0]
    panel.axvline(0, color=MUTED, lw=0.8)
    for arm, offset in zip(others, offsets, strict=True):
        look = (colours[arm], mark(study, arm))
        for y, row in enumerate(rows):
            if row.differences[arm].seeds:
                _draw(panel, -y + float(offset), row.differences[arm], look, limits)
    panel.set_xlim(limits)
    panel.set_title(textwrap.fill(f"minus '{short_name(study.baseline)}', points", 26))
    _lines_between(panel, rows)


def _draw(
    panel: Axes,
    y: float,
    value: Difference,
    look: tuple[str, str],
    limits: tuple[float, float],
) -> None:
    """An estimate and its interval, in points; an end beyond the limits is an arrow.

    look: the arm's colour and its mark.
    """
    colour, marker = look
    if math.isfinite(value.low):
        whole = (100 * value.low, 100 * value.high)
        ends = np.clip(whole, *limits)
        panel.plot(ends, [y, y], color=colour, lw=1.4, solid_capstyle="butt")
        for end, real, arrow in zip(ends, whole, "<>", strict=True):
            if end != real:
                panel.plot(end, y, arrow, color=colour, ms=4, clip_on=False)
    face = colour if math.isfinite(value.low) else "none"
    panel.plot(100 * value.mean, y, marker, color=colour, mfc=face, ms=4)


def _lines_between(panel: Axes, rows: Sequence[SubsetRow]) -> None:
    """A line where the number of modalities changes."""
    for y in range(1, len(rows)):
        if len(rows[y].modalities) != len(rows[y - 1].modalities):
            panel.axhline(0.5 - y, color=RULE, lw=0.7)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=RULE, lw=0.5)
    panel.set_axisbelow(True)


def subset_table(study: Study) -> dict[str, Any]:
    """The same as text.

    Args:
        study: The study.

    Returns:
        "headers" and "rows", each a list of (estimate, interval); {} where no trial was tested with
        subsets.
    """
    rows = subset_rows(study)
    if not rows:
        return {}
    others = [arm for arm in study.arms if arm != study.baseline]
    return {
        "headers": [*study.arms, *(f"{arm} minus {study.baseline}" for arm in others)],
        "one_seed": any(len(mean.seeds) == 1 for mean in rows[0].means.values()),
        "rows": [
            {
                "label": row.label,
                "cells": [
                    *(_cell(row.means[arm], signed=False) for arm in study.arms),
                    *(_cell(row.differences[arm], signed=True) for arm in others),
                ],
            }
            for row in rows
        ],
    }


def _cell(value: Difference, *, signed: bool) -> tuple[str, str]:
    if not math.isfinite(value.mean):
        return points(None), ""
    estimate = points(value.mean, signed=signed)
    if not math.isfinite(value.low):
        return estimate, ""
    return estimate, f"[{points(value.low, signed=signed)}, {points(value.high, signed=signed)}]"
