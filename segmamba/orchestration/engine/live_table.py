"""The live table of a study's trials: as many columns as the terminal has room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

LEGEND = "loss: last whole epoch; Dice, best: validation set in points, latest and highest"
"""Explains the columns, in one line of 80 characters."""
GAP = 1
"""Spaces between two columns."""


@dataclass(frozen=True, kw_only=True)
class Cells:
    """A trial's row, as text."""

    state: str
    style: str
    """Of the whole row, for rich."""
    epoch: str
    within: str
    """How much of the epoch, the validation or the test is done."""
    loss: str
    dice: str
    best: str
    patches_per_s: str
    time: str


COLUMNS = {
    "state": "state",
    "epoch": "epoch",
    "within": "of it",
    "loss": "loss",
    "dice": "Dice",
    "best": "best",
    "patches_per_s": "patches/s",
    "time": "time",
}
"""The fields of Cells that the table shows, and their titles."""
SPARE = ("time", "best")
"""Columns that a narrow terminal does without, in this order."""


def live_table(title: str, rows: Mapping[str, Cells], *, more: int, width: int) -> RenderableType:
    """Make the table of the trials, with its legend below.

    Args:
        title: Stands above it.
        rows: Each trial's key to its row.
        more: Trials that are not shown.
        width: Columns of the terminal.

    Returns:
        What rich shows. A key is broken between its words alone.
    """
    names = _fitting(rows, width)
    table = Table(
        title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0)
    )
    table.add_column("trial", min_width=_longest_word(rows))
    for name in names:
        justify = "left" if name == "state" else "right"
        table.add_column(COLUMNS[name], justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a str
    for key, cells in rows.items():
        texts = (Text(getattr(cells, name)) for name in names)
        table.add_row(Text(key), *texts, style=cells.style)
    if more:
        table.add_row(f"and {more} more", style="dim")
    return Group(table, Text(LEGEND, style="dim"))


def _fitting(rows: Mapping[str, Cells], width: int) -> Sequence[str]:
    """The columns that fit beside the longest word of a key."""
    names = list(COLUMNS)
    for spare in (None, *SPARE):
        if spare is not None:
            names.remove(spare)
        needed = sum(GAP + _width(name, rows) for name in names)
        if _longest_word(rows) + needed <= width:
            break
    return names


def _width(name: str, rows: Mapping[str, Cells]) -> int:
    return max(len(COLUMNS[name]), *(len(getattr(cells, name)) for cells in rows.values()), 0)


def _longest_word(rows: Mapping[str, Cells]) -> int:
    words = [word for key in rows for word in key.split()]
    return max(map(len, words), default=5)
