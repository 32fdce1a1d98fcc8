"""How the pictures of all reports look: colours, fonts, sizes, and the legend of the arms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from segmamba.pictures.figures import shortened
from segmamba.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, BAND = "#1b1c1d", "#6b6c6d", "#dbdcdd", "#d5dae0"
"""Text and lines, secondary text, grid, margin band."""
BAND_EDGE, PAPER = "#98a1ab", "#fffffe"
"""The ends of that band, and what fills a hollow mark: the page's variables replace them."""
BASELINE_COLOUR = "#7f7f7f"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of Okabe & Ito (2008), which colour-blind readers and grey prints tell apart.

Their yellow and black are left out: each vanishes on one of the two page colours.
"""
LINE_STYLES = ("-", "--", ":", "-.")  # past six arms the colours come again with another line
MARKS = ("D", "o", "s", "^")  # and with another mark
LEAST_BAND_PT = 6.0
DPI = 300  # what journals ask of line art on a page
WIDTH_IN = 7.2  # a two-column page of most journals, in inches
NARROW_IN = 3.6  # what a small screen shows
NARROW_LINE = 50  # characters of a line of words below a narrow picture
LONGEST_NAME = 36  # characters of an arm's name in a picture
LEGEND_CHARACTERS = 110  # that fit beside each other below a picture
LEGEND_LINE_IN = 0.17
TITLE_CHARACTERS = 90  # of a title above a picture of full width

STYLE: dict[str, Any] = {
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,  # `lay_out` does it once
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # an arm's name may hold dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "segmamba",
    "pdf.fonttype": 42,
}


def report_style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the style of the reports.

    Returns:
        The context manager.
    """
    from matplotlib import rc_context

    return rc_context(STYLE)  # type: ignore[arg-type]  # the stubs list every key as a literal


@contextmanager
def any_letters() -> Iterator[None]:
    """A context in which matplotlib does not warn of letters that its font lacks.

    The names of arms and patients may have any. A page shows them in the reader's fonts.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


def new_figure(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure, of the reports' width where no other is given.

    It does not use pyplot, so there is no global state, no display, and no trouble with threads.

    Args:
        height_in: Height in inches.
        width_in: Width in inches.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    # At matplotlib's 100 dpi, hinted letters are up to 6 % narrower: a layout would be too tight.
    return Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")


def lay_out(figure: Figure) -> None:
    """Make a figure's ticks and find its layout, once: each file then draws it as it stands.

    Args:
        figure: One of `new_figure`, drawn to within `report_style`.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def draw_margin(panel: Axes, margin: float, axis: Literal["x", "y"] = "x") -> None:
    """Draw the band of the differences that are too small to matter.

    It is LEAST_BAND_PT wide where the axis would make it so narrow that nobody sees it.

    Args:
        panel: Where.
        margin: The smallest difference that matters, in the unit of the axis.
        axis: That of the differences.
    """
    span, line = (panel.axvspan, panel.axvline) if axis == "x" else (panel.axhspan, panel.axhline)
    line(0, color=BAND, lw=LEAST_BAND_PT, zorder=-1, solid_capstyle="butt")
    span(-margin, margin, color=BAND, lw=0, zorder=0)
    for end in (-margin, margin):
        line(end, color=BAND_EDGE, lw=0.7, zorder=0.5)


def arm_colours(study: Study) -> dict[str, str]:
    """The colour of every arm, the same in every picture; the baseline is grey.

    Args:
        study: The study.

    Returns:
        The colours by arm, the baseline's first.
    """
    others = _others(study)
    return {study.baseline: BASELINE_COLOUR} | {
        arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(others)
    }


def line_style(study: Study, arm: str) -> str:
    """The line of an arm, which tells arms of the same colour apart.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        A line style of matplotlib.
    """
    return LINE_STYLES[_round(study, arm) % len(LINE_STYLES)]


def mark(study: Study, arm: str) -> str:
    """The mark of an arm, which tells arms of the same colour apart.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        A marker of matplotlib.
    """
    return MARKS[_round(study, arm) % len(MARKS)]


def _round(study: Study, arm: str) -> int:
    """How often the colours have all been given before this arm gets its own."""
    others = _others(study)
    return others.index(arm) // len(ARM_COLOURS) if arm in others else 0


def _others(study: Study) -> list[str]:
    return [arm for arm in study.arms if arm != study.baseline]


def short_name(arm: str) -> str:
    """An arm's name, shortened to fit into a picture; the tables have it whole.

    Args:
        arm: Name of the arm.

    Returns:
        The name with its middle left out.
    """
    return shortened(arm, LONGEST_NAME)


def add_arm_legend(figure: Figure, study: Study, shown: Literal["lines", "marks"]) -> None:
    """Add a legend of the arms below a figure, in the study's order.

    Args:
        figure: The figure.
        study: The study.
        shown: What the figure draws of an arm.
    """
    from matplotlib.lines import Line2D

    colours = arm_colours(study)
    labels = [short_name(arm) for arm in study.arms]
    handles = [
        Line2D([], [], color=colours[arm], lw=2.1, ls=line_style(study, arm))
        if shown == "lines"
        else Line2D([], [], color=colours[arm], lw=0, marker=mark(study, arm), ms=6)
        for arm in study.arms
    ]
    add_legend(figure, handles, labels)


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend below a figure, which grows by what more than a line of it takes.

    Args:
        figure: The figure.
        handles: What is explained.
        labels: Its words.
    """
    longest = max(map(len, labels))
    characters = int(LEGEND_CHARACTERS * figure.get_figwidth() / WIDTH_IN)
    columns = max(1, min(len(handles), characters // (longest + 6)))
    lines = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE_IN * (lines - 1))
    figure.legend(
        handles=handles, labels=labels, loc="outside lower center", ncols=columns, frameon=False
    )
