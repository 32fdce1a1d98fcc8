"""The pictures of an ensemble's report: the gain per added member, and the paired differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segmamba.reports.ensemble_tables import gain_over_best, mean_score
from segmamba.reports.style import (
    ARM_COLOURS,
    BAND,
    BASELINE_COLOUR,
    INK,
    MUTED,
    RULE,
    add_legend,
    any_letters,
    lay_out,
    new_figure,
    report_style,
    short_name,
)
from segmamba.studies.ensemble_verdict import Ensemble, gain
from segmamba.studies.hypothesis import MINUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_ensemble(ensemble: Ensemble) -> dict[str, Figure]:
    """Draw all pictures of the report.

    Args:
        ensemble: The results.

    Returns:
        The figures by name.
    """
    with report_style(), any_letters():
        figures = {"members": draw_sizes(ensemble), "gains": draw_gains(ensemble)}
        for figure in figures.values():
            lay_out(figure)  # while the style holds
        return figures


def draw_sizes(ensemble: Ensemble) -> Figure:
    """Draw mean Dice against the number of members that vote.

    Args:
        ensemble: The results.

    Returns:
        A dot for every subset of the members, and a line through the means of each size.
    """
    figure = new_figure(3.0)
    panel = figure.subplots()
    for number, group in enumerate(ensemble.groups):
        colour, sizes = ARM_COLOURS[number % len(ARM_COLOURS)], group.by_size()
        shift = 0.06 * (number - (len(ensemble.groups) - 1) / 2)
        for size, means in sizes.items():
            panel.plot(
                [size + shift] * len(means),
                100 * np.array(means),
                "o",
                ms=3.5,
                color=colour,
                alpha=0.35,
                mew=0,
            )
        panel.plot(
            np.array(list(sizes)) + shift,
            [100 * np.mean(means) for means in sizes.values()],
            "-",
            lw=1.8,
            color=colour,
            label=short_name(group.name),
        )
    first = ensemble.groups[0]
    best = first.members[first.best]
    panel.axhline(
        100 * mean_score(first, best, "dice_mean"),
        color=BASELINE_COLOUR,
        ls="--",
        lw=1,
        label=f"{short_name(best)}, the best on the validation set",
    )
    panel.set(xlabel="members that vote", ylabel="mean Dice on the test set, points")
    panel.locator_params(axis="x", integer=True)
    panel.grid(axis="y", color=RULE, lw=0.5)
    add_legend(figure, *panel.get_legend_handles_labels())
    return figure


def draw_gains(ensemble: Ensemble) -> Figure:
    """Draw what the vote gains over its members on every region.

    Args:
        ensemble: The results.

    Returns:
        The differences with their intervals over patients; the band is the expected gain in mean
        Dice.
    """
    rows = 2 * len(ensemble.groups)
    figure = new_figure(0.9 + 0.42 * rows)
    regions = ensemble.study.data.scores
    panels = figure.subplots(1, len(regions), sharey=True)
    for panel, region in zip(panels, regions, strict=True):
        _draw_region(panel, ensemble, region)
        panel.set_ylim(0.5 - rows, 0.5)
    labels = [
        f"{short_name(group.name)} ensemble {MINUS}\n{against}"
        for group in ensemble.groups
        for against in ("mean of its members", "its best member")
    ]
    panels[0].set_yticks([-y for y in range(rows)], labels)
    figure.supxlabel(
        "difference in Dice points; bars: 95 % interval over patients; band: the expected gain",
        fontsize=8,
    )
    return figure


def _draw_region(panel: Axes, ensemble: Ensemble, region: str) -> None:
    """Two rows for each group: against the mean of its members, and against its best member."""
    score = f"dice_{region}"
    panel.axvline(0, color=MUTED, lw=0.8)
    if region == "mean":
        least, most = (100 * value for value in ensemble.expected_gain)
        panel.axvspan(least, most, color=BAND, lw=0, zorder=0)
    for number, group in enumerate(ensemble.groups):
        differences = (gain(group, score), gain_over_best(group, score))
        for row, (mean, low, high) in enumerate(differences):
            y = -(2 * number + row)
            if low is not None and high is not None:
                panel.plot([100 * low, 100 * high], [y, y], color=INK, lw=1.4)
            panel.plot(100 * mean, y, "o", color=ARM_COLOURS[number % len(ARM_COLOURS)], ms=5)
    panel.set_title("mean of regions" if region == "mean" else region)
    panel.tick_params(axis="y", length=0)
