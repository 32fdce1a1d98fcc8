"""A study at the terminal: the table of its arms, as wide as there is room, and its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segmamba.reports.tables import EXPLORATORY, PHANTOM_NOTICE, Cell, arm_table, dropped_rows
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"supported": "green", "rejected": "red", "equivalent": "blue", "undecided": "yellow"}
BASELINE_MARK = " *"
SHORT = {
    " \N{PLUS-MINUS SIGN} ": "\N{PLUS-MINUS SIGN}",
    " of ": "/",
    "mean Dice": "mean",
    "HD95 (mm)": "HD95",
    "NSD at 1 mm": "NSD",
    "parameters": "params",
    "training": "time",
    "last checkpoint": "last",
}
"""What the terminal writes in place of the page's words."""
LEGEND = {
    "last": "last: Dice of the last checkpoint",
    "NSD": "NSD at 1 mm",
    "HD95": "HD95 in mm",
    "time": "time of a training",
}
"""Explains the short titles that the terminal shows, all of them in one line."""
SPARE_COLUMNS = ("params", "last", "time", "NSD", "HD95")
"""Columns that a narrow terminal does without, in this order."""


def render_terminal(study: Study, console: Console) -> None:
    """Show the result table and the verdicts at the terminal.

    Args:
        study: The study.
        console: The terminal; columns that do not fit into its width are left out.
    """
    from rich.text import Text

    render_arms(study, console)
    for number, claim in enumerate(study.claims):
        result = verdict(study, claim)
        sentence = f"{EXPLORATORY}: {result.sentence}" if number else result.sentence
        console.print(Text(sentence, style=COLOURS[result.answer]))
    if study.registration and not study.registration.before_trials:
        console.print(Text(study.registration.sentence, style="yellow"))
    if study.data.phantom:
        console.print(Text(PHANTOM_NOTICE, style="bold"))


def render_arms(study: Study, console: Console) -> None:
    """Show the result table at the terminal, with one line that explains its short words.

    Args:
        study: The study.
        console: The terminal; columns that do not fit into its width are left out.
    """
    from rich.table import Table
    from rich.text import Text

    headers, rows = _fitting(*arm_table(study), baseline=study.baseline, width=console.width)
    table = Table(
        title="Dice in points, mean±sd over seeds, on the test set; * is the baseline",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for header in headers:
        is_arm = header == "arm"
        table.add_column(header, justify="left" if is_arm else "right", no_wrap=not is_arm)
    for row in rows:
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    console.print()
    console.print(table)
    legend = "; ".join(meaning for name, meaning in LEGEND.items() if name in headers)
    if legend:
        console.print(Text(legend, style="dim"))
    for dropped in dropped_rows(study):
        console.print(Text(f"{dropped['arm']} got no further seed: {dropped['reason']}."))
    console.print()


def _fitting(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, baseline: str, width: int
) -> tuple[list[str], list[list[Cell]]]:
    """Headers and rows in short words, without the columns that do not fit into the width."""
    short_headers = [_compact(header) for header in headers]
    short_rows = [
        [
            (baseline + BASELINE_MARK if arm == f"{baseline} (baseline)" else arm, strong),
            *((_compact(text), best) for text, best in row),
        ]
        for (arm, strong), *row in rows
    ]
    for spare in (None, *SPARE_COLUMNS):
        if spare in short_headers:
            at = short_headers.index(spare)
            del short_headers[at]
            for row in short_rows:
                del row[at]
        if _width(short_headers, short_rows) <= width:
            break
    return short_headers, short_rows


def _width(headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> int:
    """The characters that a table needs; an arm's name is wrapped between its words."""
    arm = max(len(word) for row in rows for word in row[0][0].split())
    texts = ([text for text, _ in row[1:]] for row in rows)
    columns = zip(headers[1:], *texts, strict=True)
    return arm + sum(1 + max(map(len, column)) for column in columns)


def _compact(text: str) -> str:
    for long, short in SHORT.items():
        text = text.replace(long, short)
    return text
