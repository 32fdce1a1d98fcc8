"""What the terminal shows of a study that has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.commands.shared import print_json, print_runs

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
    stopped: bool = False,
) -> None:
    """Print a study's result table and verdict, and where its report and its runs are.

    A study that was stopped has no verdict, and no table before its first trial is tested.

    Args:
        study: The study.
        folder: Where its report is.
        screen: Takes the table and the verdict.
        say: Takes each of the lines that follow them.
        as_json: Print the table as JSON on stdout as well.
        stopped: Whether the user stopped it.
    """
    from segmamba.reports.tables import result_table
    from segmamba.reports.terminal import render_arms, render_terminal
    from segmamba.studies.scores import finished_trials

    if as_json:
        print_json(result_table(study))
    if not stopped:
        render_terminal(study, screen)
    elif any(finished_trials(study, arm) for arm in study.arms):
        render_arms(study, screen)
    say(f"report   {folder / 'report.html'}")
    print_runs(screen, study.mlflow_uri, study.mlflow_page)
