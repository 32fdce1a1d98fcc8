"""All pictures of a study's report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from segmamba.reports.answer_figure import draw_answer
from segmamba.reports.difference_figures import draw_differences
from segmamba.reports.look_figures import draw_looks
from segmamba.reports.pareto_figures import draw_pareto
from segmamba.reports.patient_figures import draw_cases
from segmamba.reports.search_figures import draw_search
from segmamba.reports.style import NARROW_IN, any_letters, lay_out, report_style
from segmamba.reports.subset_figures import draw_subsets
from segmamba.reports.trial_figures import draw_curves, draw_doses
from segmamba.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[..., Figure | None]] = {
    "answer": draw_answer,
    "differences": draw_differences,
    "subsets": draw_subsets,
    "looks": draw_looks,
    "doses": draw_doses,
    "search": draw_search,
    "pareto": draw_pareto,
    "cases": draw_cases,
    "curves": draw_curves,
}
"""The function that draws each picture of a study with a `width_in` in inches, or gives None where
the study has nothing to show."""

NARROW = {
    f"{name}-narrow": functools.partial(draw, width_in=NARROW_IN) for name, draw in FIGURES.items()
}
"""The same for a small screen, where the others would be too small to read: on the page alone."""


def draw_all(study: Study) -> dict[str, Figure]:
    """Draw the pictures that a study has data for.

    Args:
        study: The study.

    Returns:
        The figures by name, in the order of FIGURES.
    """
    return _drawn(FIGURES, study)


def draw_narrow(study: Study) -> dict[str, Figure]:
    """Draw them for a small screen.

    Args:
        study: The study.

    Returns:
        The figures by name, in the order of NARROW.
    """
    return _drawn(NARROW, study)


def _drawn(draws: Mapping[str, Callable[..., Figure | None]], study: Study) -> dict[str, Figure]:
    with report_style(), any_letters():
        drawn = {name: draw(study) for name, draw in draws.items()}
        figures = {name: figure for name, figure in drawn.items() if figure}
        for figure in figures.values():
            lay_out(figure)  # while the style holds
        return figures
