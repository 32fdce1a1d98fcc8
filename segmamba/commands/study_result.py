"""What the terminal shows of a study that has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.commands.shared import print_json, shown_uri

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.studies.results import Study


def print_result(
    study: Study,
    folder: Path,
    screen: Console,
    say: Callable[[str], None],
    *,
    as_json: bool,
) -> None:
    """Print a study's result table and verdict, and where its report and its runs are.

    Args:
        study: The study.
        folder: Where its report is.
        screen: Takes the table and the verdict.
        say: Takes each of the lines that follow them.
        as_json: Print the table as JSON on stdout as well.
    """
    from segmamba.reports.tables import render_terminal, result_table

    if as_json:
        print_json(result_table(study))
    render_terminal(study, screen)
    say(f"report   {folder / 'report.html'}")
    say(f"runs     mlflow ui --backend-store-uri {shown_uri(study.mlflow_uri)}")
