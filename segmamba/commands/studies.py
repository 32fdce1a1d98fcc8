"""segmamba studies, segmamba report: what has run, and a report drawn again."""

import sys
from typing import Annotated, Any

import typer

from segmamba.commands.shared import RESULTS, JsonOption, OutputOption, console, print_json
from segmamba.commands.study_result import print_result
from segmamba.screen import points, print_line


def studies(output: OutputOption = RESULTS, as_json: JsonOption = False) -> None:
    """List the studies that have run, newest first."""
    from segmamba.orchestration.listing import list_studies

    rows = list_studies(output)
    if as_json:
        print_json(rows)
    elif rows:
        _print_studies(rows)
    else:
        print_line(console(), f"no study has run in {output}")


def report(
    study: Annotated[
        str,
        typer.Argument(
            help="A study's name, with or without _RunNN (then the newest), or its MLflow run id.",
            metavar="STUDY",
        ),
    ],
    output: OutputOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Draw a study's report again.

    Everything in the report comes from MLflow.
    """
    from rich.console import Console

    from segmamba.orchestration.listing import redraw

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout)

    result, folder = redraw(output, study)
    screen = Console(stderr=as_json, soft_wrap=False)
    print_result(result, folder, screen, say, as_json=as_json)


def _print_studies(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `list_studies` as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("study", no_wrap=True)
    table.add_column("began", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("best mean Dice", justify="right", no_wrap=True)
    table.add_column("answer")
    for row in rows:
        best = row["best_dice_mean"]
        table.add_row(
            Text(row["study"]),
            row["began"],
            row["state"],
            f"{row['finished']}/{row['trials']}",
            "" if best is None else points(best),
            Text(row["verdict"] or row["question"]),  # an arm's name may look like markup
        )
    console().print(table)
