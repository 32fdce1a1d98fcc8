"""segmamba studies, segmamba report: what has run, and a report drawn again."""

import sys
from functools import partial
from typing import Annotated, Any

import typer

from segmamba.commands.shared import (
    COLUMNS,
    RESULTS,
    DeviceOption,
    JsonOption,
    OutputOption,
    console,
    note_on_viewer,
    print_json,
)
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
    viewer: Annotated[
        bool,
        typer.Option(
            "--viewer",
            help="Also write viewer.html: of each arm the worst, median and best case beside the "
            "baseline's, predicted again by the tested checkpoints.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    output: OutputOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Draw a study's report again.

    Everything in the report comes from MLflow; the viewer needs checkpoints and data as well.
    """
    from segmamba.orchestration.listing import redraw, redraw_with_viewer

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout)

    if viewer:
        from segmamba.screen import progress_lines

        steps = partial(progress_lines, console(stderr=True))
        result, folder, page = redraw_with_viewer(output, study, device, steps)
        say(f"viewer   {page}")
        note_on_viewer(page)
    else:
        result, folder = redraw(output, study)
    screen = console(stderr=as_json)
    print_result(result, folder, screen, say, as_json=as_json)


def compare_studies(
    names: Annotated[
        list[str],
        typer.Argument(
            help="The studies: names, with or without _RunNN (then the newest), or run ids.",
            metavar="STUDY",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline",
            help="The arm that every other is compared with. Default: the first study's.",
            metavar="ARM",
            show_default=False,
        ),
    ] = None,
    contrasts: Annotated[
        list[str] | None,
        typer.Option(
            "--contrast",
            help='Two arms, as "ARM - ARM"; may be repeated. Holm\'s adjustment is over all.',
            metavar="CONTRAST",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="Smallest difference that matters, in Dice or NSD points or in mm of HD95. "
            "Default: the first study's.",
            metavar="X",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="dice, nsd_1mm or hd95. Default: the first study's.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            help="mean, ET, TC or WT. Default: the first study's.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            "--direction",
            help="What is asked of the contrasts: better, 'no better' or alike.",
            metavar="WORDS",
        ),
    ] = "better",
    output: OutputOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Compare the arms of studies of the same cases.

    Seeds of the same arm are pooled: same settings, split and code. Other arms of the same name
    are shown as "ARM (STUDY)". The report is written to a new folder comparison_RunNN.
    """
    import shlex

    from segmamba.orchestration.listing import compare_studies as compared
    from segmamba.reports.difference_rows import comparison_as_dict
    from segmamba.studies.comparison import Asked

    asked = Asked(
        baseline=baseline,
        contrasts=tuple(contrasts or ()),
        margin=margin,
        metric=metric,
        region=region,
        direction=direction,
    )
    command = shlex.join(["segmamba", *sys.argv[1:]])
    study, folder = compared(output, names, asked, command)
    if as_json:
        print_json(comparison_as_dict(study))

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout)

    screen = console(stderr=as_json)
    for note in study.data.notes:
        say(f"note     {note}")
    print_result(study, folder, screen, say, as_json=False)


def _print_studies(rows: list[dict[str, Any]]) -> None:
    """Print the rows of `list_studies` as a table, a narrow terminal without when they began."""
    from rich.table import Table
    from rich.text import Text

    screen = console()
    began = screen.width >= COLUMNS
    table = Table(box=None, pad_edge=False)
    table.add_column("study", no_wrap=True)
    if began:
        table.add_column("began", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("Dice", justify="right", no_wrap=True)
    table.add_column("answer")
    for row in rows:
        best = row["best_dice_mean"]
        table.add_row(
            Text(row["study"]),
            *([row["began"]] if began else []),
            row["state"],
            f"{row['finished']}/{row['trials']}",
            "" if best is None else points(best),
            Text(row["verdict"] or row["question"]),  # an arm's name may look like markup
        )
    screen.print(table)
    print_line(
        screen,
        "Dice: that of the trial that validation likes best, mean over the regions, in points",
    )
