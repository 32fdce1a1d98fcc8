"""Figures as files and as parts of a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.files import replacing
from segmamba.reports.style import ARM_COLOURS, BAND, INK, MUTED, RULE, report_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 300  # what journals ask of line art on a page

# The page gives these colours by CSS variables, which differ in dark mode.
PAGE_COLOURS = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    BAND: "--band",
    ARM_COLOURS[0]: "--blue",
}


def save_png(figure: Figure, path: Path) -> None:
    """Save a figure on white at the resolution of a journal.

    Args:
        figure: The figure.
        path: The file; it is replaced as a whole.
    """
    with replacing(path) as file:
        figure.savefig(file, dpi=DPI, format="png", facecolor="white")


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
    with report_style():
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
