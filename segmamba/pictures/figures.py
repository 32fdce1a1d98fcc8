"""Figures that need no display, and files that are there whole or not at all."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def new_figure(**options: Any) -> Figure:
    """Make a matplotlib figure without pyplot: no global state, no display, safe in any thread.

    Args:
        options: What matplotlib's Figure takes.
    """
    from matplotlib.figure import Figure

    return Figure(**{"dpi": DPI} | options)  # laid out for the dots that it is saved with


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, which is there whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, dpi="figure", format="png")


def png_of(figure: Figure) -> bytes:
    """Draw a figure as a PNG, for a page."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi="figure", format="png")
    return drawn.getvalue()


def legible(text: str) -> str:
    """Replace the characters that matplotlib's font lacks, an emoji for one, which it warns of.

    Args:
        text: A case's name, for example.

    Returns:
        The text with a mark in place of each.
    """
    known = _characters()
    return "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in text)


def shortened(text: str, characters: int) -> str:
    """Leave the middle of a text out: names differ at their ends more often.

    Args:
        text: A name.
        characters: How many the result has at most.
    """
    if len(text) <= characters:
        return text
    end = (characters - 1) // 2
    return f"{text[: characters - 1 - end].rstrip()}\N{HORIZONTAL ELLIPSIS}{text[-end:].lstrip()}"


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(findfont("DejaVu Sans")).get_charmap())
