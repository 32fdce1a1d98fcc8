"""The picture of the contrast that the answer leads with, patient by patient."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segmamba.data.label_sets import MEAN
from segmamba.reports.style import (
    INK,
    LEGEND_CHARACTERS,
    MUTED,
    TITLE_CHARACTERS,
    WIDTH_IN,
    arm_colours,
    draw_margin,
    new_figure,
    short_name,
)
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict
from segmamba.studies.words import amount, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_PATIENTS = 5
"""A picture of fewer patients is better read as a table."""
MOST_NAMED, AT_EACH_END = 40, 18
"""Up to so many patients all are named; of more, so many with the least and the largest."""
ROW_IN, AROUND_IN = 0.15, 0.85


def draw_cases(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw the contrast that the answer leads with, patient by patient.

    Args:
        study: The study.
        width_in: Width of the figure in inches.

    Returns:
        The mean over seeds and the patient's cases of each test patient, by name and in order; of
        many patients those at both ends. None for a trend and for few patients.
    """
    claim, difference = study.hypothesis, verdict(study).difference
    values = np.array(difference.patient_differences)
    if len(values) < FEWEST_PATIENTS or not difference.versus:
        return None
    metric = difference.metric
    order = np.argsort(-values, kind="stable")
    rows = _rows(order.tolist())
    figure = new_figure(AROUND_IN + ROW_IN * len(rows), width_in)
    panel, colours = figure.subplots(), arm_colours(study)
    draw_margin(panel, metric.scale * claim.margin)
    for y, place in enumerate(rows):
        if place is None:
            between = len(values) - 2 * AT_EACH_END
            panel.text(
                0.5,
                -y,
                f"{count(between, 'patient')} between, in the table",
                transform=panel.get_yaxis_transform(),
                ha="center",
                va="center",
                fontsize=7,
                color=MUTED,
            )
            continue
        better = difference.arm if values[place] > 0 else difference.versus
        panel.barh(-y, metric.scale * values[place], height=0.72, color=colours[better], zorder=2)
    named = [(y, place) for y, place in enumerate(rows) if place is not None]
    panel.set_yticks(
        [-y for y, _ in named], [short_name(difference.patients[place]) for _, place in named]
    )
    panel.tick_params(axis="y", length=0, labelsize=7)
    panel.axvline(0, color=MUTED, lw=0.8, zorder=3)
    panel.axvline(metric.scale * difference.mean, color=INK, lw=1, ls="--", zorder=3)
    panel.set_ylim(0.7 - len(rows), 0.7)
    arm, gained = short_name(difference.arm), int((values > 0).sum())
    title = (
        f"{arm} {MINUS} {short_name(difference.versus)}: better with {arm} in {gained} of "
        f"{len(values)} patients"
    )
    words = (
        f"{region_words(difference)}, {metric.unit}, {count(len(difference.seeds), 'seed')}; "
        f"dashed: the mean of all patients, {amount(difference.mean, metric, signed=True)}"
    )
    # Over and below the whole picture: the names at the left take a part of it.
    figure.suptitle(textwrap.fill(title, int(TITLE_CHARACTERS * width_in / WIDTH_IN)), fontsize=9)
    figure.supxlabel(textwrap.fill(words, int(LEGEND_CHARACTERS * width_in / WIDTH_IN)), fontsize=8)
    return figure


def region_words(difference: Difference) -> str:
    """What is compared, in words: "WT Dice", or "mean Dice of the regions".

    Args:
        difference: The difference.
    """
    words = difference.metric.words
    if difference.region == MEAN:
        return f"mean {words} of the regions"
    return f"{difference.region} {words}"


def _rows(order: Sequence[int]) -> list[int | None]:
    """The places that are shown, from the largest; None stands for those between."""
    if len(order) <= MOST_NAMED:
        return list(order)
    return [*order[:AT_EACH_END], None, *order[-AT_EACH_END:]]
