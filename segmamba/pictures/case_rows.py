"""The rows of a page's table of cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Cell = tuple[str, float | None]
"""What is read, and by what the column is sorted; None is sorted last."""


@dataclass(frozen=True)
class CaseRow:
    """A case in a table that readers sort."""

    case: str
    viewed: bool
    """Whether the page's viewer holds it: its name then opens it there."""
    cells: Mapping[str, Cell]
    """By column."""


def cell(value: float | None, decimals: int, scale: float = 1) -> Cell:
    """A number as a table shows it; a dash where there is none.

    Args:
        value: The number.
        decimals: How many are shown.
        scale: What it is multiplied by, for the reader.

    Returns:
        The cell.
    """
    if value is None:
        return "\N{EN DASH}", None
    return f"{scale * value:.{decimals}f}", value
