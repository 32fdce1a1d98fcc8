"""The picture of a search: what every trial reached, and which settings mattered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segmamba.reports.style import ARM_COLOURS, BASELINE_COLOUR, INK, MUTED, WIDTH_IN, new_figure
from segmamba.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC = "val/best_dice_mean"


def draw_search(study: Study, width_in: float = WIDTH_IN) -> Figure | None:
    """Draw the validation Dice of a search's trials and the importance of the settings.

    Args:
        study: The study.
        width_in: Width of the figure in inches; a narrow one has its panels below each other.

    Returns:
        The trials in the order tried, with the best so far and the baseline; beside them the
        importance of each setting, where there are trials enough to tell. None without a search.
    """
    tried = [(i, trial) for i, trial in enumerate(study.searched) if METRIC in trial.metrics]
    if not tried:
        return None
    if width_in == WIDTH_IN:
        figure = new_figure(2.6)
        panel, bars = figure.subplots(1, 2, width_ratios=(1.4, 1))
    else:
        figure = new_figure(4.8, width_in)
        panel, bars = figure.subplots(2, 1)
    for status, label, colour, face in (
        ("FINISHED", "trained to the end", ARM_COLOURS[0], ARM_COLOURS[0]),
        ("STOPPED", "stopped early", MUTED, "none"),
    ):
        ended = [(i, 100 * t.metrics[METRIC]) for i, t in tried if t.status == status]
        if ended:
            panel.plot(*zip(*ended, strict=True), "o", color=colour, mfc=face, ms=4.5, label=label)
    best = np.maximum.accumulate([100 * trial.metrics[METRIC] for _, trial in tried])
    panel.step([i for i, _ in tried], best, where="post", color=INK, lw=1, label="best so far")
    panel.axhline(best[0], color=BASELINE_COLOUR, lw=0.8, ls=":", label="baseline")
    panel.set(xlabel="trial, in the order tried", ylabel="validation mean Dice (points)")
    panel.locator_params(axis="x", integer=True)
    panel.legend(frameon=False, fontsize=7)
    shares = sorted(study.importance.items(), key=lambda item: item[1])
    names, heights = [name for name, _ in shares], [100 * share for _, share in shares]
    bars.barh(names, heights, color=ARM_COLOURS[0], height=0.6)
    bars.set_xlabel("importance (%)")
    bars.set_visible(bool(shares))
    return figure
