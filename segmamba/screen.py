"""Lines on a rich Console, and the types of functions that show progress. Imports nothing slow."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from segmamba.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
"""Shows how much of a piece of work is done: called with (done, total) after each item."""

Steps = Callable[[str], Progress]
"""Gives the Progress of one piece of work, from the label that stands beside it."""


def no_progress(done: int, total: int) -> None:
    """Show nothing: the Progress of work that nobody watches."""


LABELLED = re.compile(r"\w+ {2,}|\s*")
"""What the further lines of a text are indented by: its label with the spaces after it."""


def print_line(
    console: Console, text: str, style: str | None = None, *, copied: bool = False
) -> None:
    """Print one line, without passwords; a terminal that is too narrow for it gets several.

    Brackets in a file's name are no markup. Lines end between words, so that no path is cut in two.

    Args:
        console: Where the line goes.
        text: The line.
        style: A rich style for the whole line.
        copied: Whether the line is a command that users copy, which stays one line.
    """
    text = redacted(text)
    if console.is_terminal and not copied:
        text = folded(text, console.width)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def folded(text: str, width: int) -> str:
    """Break a text between its words, below its label if it has one.

    Args:
        text: One line or several.
        width: Characters of a line; a longer word stays whole.

    Returns:
        The lines.
    """
    lines = []
    for line in text.splitlines() or [""]:
        label = LABELLED.match(line)
        indent = len(label[0]) if label else 0
        lines += textwrap.wrap(
            line,
            max(width, indent + 20),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        ) or [""]
    return "\n".join(lines)


def points(dice: float, *, decimals: int = 1) -> str:
    """Write a Dice score in points, the unit of everything that a person reads.

    Args:
        dice: Dice in [0, 1], as files and JSON output hold it.
        decimals: Digits after the decimal point.

    Returns:
        Dice from 0 to 100, for example "70.7".
    """
    return f"{100 * dice:.{decimals}f}"


def clock(seconds: float) -> str:
    """Write a duration as "2 h 05 min" or "3:20 min"."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60}:{rest % 60:02d} min"


def progress_lines(console: Console, label: str) -> Progress:
    """The Progress of a preparation on a console.

    A terminal shows a line that counts; elsewhere one line follows when all is done. Nothing is
    shown where there is nothing to do, since the Progress is then never called.

    Args:
        console: Where the lines go.
        label: What is being prepared.
    """
    began = time.monotonic()

    def show(done: int, total: int) -> None:
        if console.is_terminal:
            console.print(f"{label}: {done}/{total}", end="\n" if done == total else "\r")
        elif done == total:
            print_line(console, f"{label}: {total} in {clock(time.monotonic() - began)}")

    return show
