"""All pictures of a study's report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from segmamba.reports.difference_figures import draw_cases, draw_differences
from segmamba.reports.look_figures import draw_looks
from segmamba.reports.search_figures import draw_search
from segmamba.reports.style import report_style
from segmamba.reports.subset_figures import draw_subsets
from segmamba.reports.trial_figures import draw_cost, draw_curves, draw_doses
from segmamba.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[Study], Figure | None]] = {
    "differences": draw_differences,
    "subsets": draw_subsets,
    "looks": draw_looks,
    "doses": draw_doses,
    "search": draw_search,
    "curves": draw_curves,
    "cost": draw_cost,
    "cases": draw_cases,
}
"""The function that draws each picture, or gives None where the study has nothing to show."""


def draw_all(study: Study) -> dict[str, Figure]:
    """Draw the pictures that a study has data for.

    Args:
        study: The study.

    Returns:
        The figures by name, in the order of FIGURES.
    """
    with report_style():
        drawn = {name: draw(study) for name, draw in FIGURES.items()}
        figures = {name: figure for name, figure in drawn.items() if figure}
        for figure in figures.values():
            figure.draw_without_rendering()  # makes the ticks while the style holds
        return figures
