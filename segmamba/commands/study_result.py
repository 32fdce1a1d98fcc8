"""What the terminal shows of a study that has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.commands.shared import STOPPED, print_json, print_runs
from segmamba.screen import print_line

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.studies.results import Study


def stopped_code(screen: Console, end: KeyboardInterrupt) -> int:
    """Say how a stopped study goes on, and return the exit code.

    Where Ray has died, this process ends here and now with exit code 1: to wait for Ray's threads,
    as an orderly exit does, would take a minute.

    Args:
        screen: Takes the line.
        end: What has stopped it: Ctrl-C, a batch system or Ray's death.
    """
    from segmamba.orchestration.engine.ray_watch import RayEnded

    if isinstance(end, RayEnded):
        print(f"error: {end}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    print_line(screen, STOPPED)
    return 130


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
