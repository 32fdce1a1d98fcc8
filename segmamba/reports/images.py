"""Figures as files and as parts of a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.files import replacing
from segmamba.reports.style import (
    ARM_COLOURS,
    BAND,
    BAND_EDGE,
    INK,
    MUTED,
    PAPER,
    RULE,
    any_letters,
    report_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300  # what journals ask of line art on a page

# The page gives these colours by CSS variables, which differ in dark mode.
PAGE_COLOURS = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    BAND: "--band",
    BAND_EDGE: "--band-edge",
    PAPER: "--page",
    ARM_COLOURS[0]: "--blue",
}


FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": DPI, "facecolor": "white"},
    "svg": {"facecolor": "white", "metadata": {"Date": None}},
    "pdf": {"facecolor": "white", "metadata": {"CreationDate": None, "ModDate": None}},
}
"""What a figure is saved as: for a glance, for a page, for a paper. No date, so that a figure drawn
again is the same file."""


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Save a figure on white in every one of FORMATS.

    Args:
        figure: The figure.
        folder: Where; its files are replaced as a whole.
        name: The files' name without its ending.
    """
    for ending, options in FORMATS.items():
        with replacing(folder / f"{name}.{ending}") as file, report_style(), any_letters():
            figure.savefig(file, format=ending, **options)


def to_svg(figure: Figure, name: str) -> str:
    """Draw a figure as an <svg> element of a page.

    The element is transparent, takes its colours from the page's variables, and names no address.

    Args:
        figure: The figure.
        name: Makes the ids of the element unique within the page.

    Returns:
        The element.
    """
    text = io.StringIO()
    with report_style(), any_letters():
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # the HTML parser knows both namespaces
    # Matplotlib derives some ids from positions whose last digit varies from run to run.
    ids: dict[str, int] = {}
    svg = re.sub(
        r'(\bid="|url\(#|href="#)([^")]+)',
        lambda m: f"{m[1]}{name}-{ids.setdefault(m[2], len(ids))}",
        svg,
    )
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"|<svg height="[^"]*"', "<svg", svg, count=1)
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
