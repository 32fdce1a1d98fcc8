"""The fingerprint of a data set on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segmamba.data.summary import QUANTILES, Fingerprint
from segmamba.screen import print_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_SHOWN = 4  # shapes or spacings that are listed one by one


def render(fingerprint: Fingerprint, console: Console) -> None:
    """Print the fingerprint as a few lines and two tables.

    Args:
        fingerprint: As `summarise` gives it.
        console: Where it is printed.
    """
    for line in _lines(fingerprint):
        print_line(console, line)
    console.print(_intensity_table(fingerprint))
    if fingerprint["labelled"]:
        console.print(_volume_table(fingerprint))


def _lines(fingerprint: Fingerprint) -> list[str]:
    lines = [
        f"{fingerprint['cases']} cases of {fingerprint['patients']} patients, "
        f"{fingerprint['labelled']} labelled; labels {', '.join(fingerprint['labels'])}",
        f"shapes    {_listing(fingerprint['shapes'])}",
        f"spacings  {_listing(fingerprint['spacings_mm'])} (mm)",
    ]
    lines += [f"note      {note}" for note in fingerprint["notes"]]
    if unreadable := fingerprint["unreadable"]:
        lines.append(
            f"left out  {len(unreadable)} cases that cannot be read, {unreadable[0]} for one"
        )
    return lines


def _listing(counted: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counted.items())[:MOST_SHOWN]]
    further = len(counted) - MOST_SHOWN
    return ", ".join(shown) + (f" and {further} more" if further > 0 else "")


def _intensity_table(fingerprint: Fingerprint) -> Table:
    from rich.table import Table

    statistics = ("mean", "std", *QUANTILES)
    title = "intensity in the brain, median over cases"
    table = Table("modality", *statistics, title=title, box=None)
    for modality, spreads in fingerprint["intensities"].items():
        table.add_row(modality, *(f"{spreads[name]['median']:.4g}" for name in statistics))
    return table


def _volume_table(fingerprint: Fingerprint) -> Table:
    from rich.table import Table

    table = Table("region", "min", "median", "max", "cases without", title="volume (ml)", box=None)
    for region, spread in fingerprint["volumes_ml"].items():
        if spread is not None:
            table.add_row(
                region,
                f"{spread['min']:.2f}",
                f"{spread['median']:.2f}",
                f"{spread['max']:.2f}",
                str(len(fingerprint["cases_without"][region])),
            )
    return table
