"""Figures as files and as parts of a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.files import replacing, write_text
from segmamba.reports.style import (
    ARM_COLOURS,
    BAND,
    BAND_EDGE,
    INK,
    MUTED,
    PAPER,
    RULE,
    any_letters,
    lay_out,
    report_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

DOTS_PER_INCH = 200
"""Of what is drawn as dots within a page's figure; its lines and letters have no dots."""
DATELESS = {"CreationDate": None, "ModDate": None}
"""Metadata of a PDF, so that a figure drawn again is the same file."""


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Save a figure for a glance and for papers, as PNG, PDF and SVG, and draw it for a page.

    Args:
        figure: The figure.
        folder: Where; its files are replaced as a whole.
        name: The files' name without its ending.

    Returns:
        The element that `to_svg` makes.
    """
    svg = _svg(figure)
    write_text(folder / f"{name}.svg", svg)
    _save_png(figure, folder / f"{name}.png")
    with report_style(), any_letters(), replacing(folder / f"{name}.pdf") as file:
        figure.savefig(file, format="pdf", facecolor="white", metadata=DATELESS)
    return _element(svg, name)


def save_png(figure: Figure, file: Path) -> None:
    """Save a figure for a page that shows files, whole or not at all.

    Args:
        figure: The figure.
        file: The PNG.
    """
    with report_style(), any_letters():
        lay_out(figure)
    _save_png(figure, file)


def _save_png(figure: Figure, file: Path) -> None:
    with report_style(), any_letters(), replacing(file) as whole:
        figure.savefig(whole, dpi="figure", format="png", facecolor="white")


def to_svg(figure: Figure, name: str) -> str:
    """Draw a figure as an <svg> element of a page.

    The element is transparent, takes its colours from the page's variables, and names no address.

    Args:
        figure: The figure.
        name: Makes the ids of the element unique within the page.

    Returns:
        The element.
    """
    return _element(_svg(figure), name)


def _svg(figure: Figure) -> str:
    """A figure as an SVG file."""
    text = io.StringIO()
    with report_style(), any_letters():
        lay_out(figure)
        figure.savefig(
            text, format="svg", transparent=True, metadata={"Date": None}, dpi=DOTS_PER_INCH
        )
    return text.getvalue()


def _element(svg: str, name: str) -> str:
    """A file's SVG as an element of a page."""
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
