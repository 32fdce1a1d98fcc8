"""segmamba train, segmamba reproduce: one run, and the same run again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from segmamba.commands.command_line import complete_preset
from segmamba.commands.shared import (
    LABELS_HELP,
    PRESET_HELP,
    RESULTS,
    DataOption,
    DeviceOption,
    JsonOption,
    NamesOption,
    OrientationOption,
    OutputOption,
    ResumeOption,
    SetOption,
    complete_labels,
    console,
    print_json,
    print_runs,
    with_orientation,
)
from segmamba.config import Config, load_config, parse_assignments
from segmamba.config import preset as preset_named
from segmamba.errors import RunStopped, Stopped, UserError
from segmamba.screen import points, print_line

if TYPE_CHECKING:
    from segmamba.commands.run_progress import RunProgress
    from segmamba.orchestration.single import FinishedRun

Result = TypeVar("Result")


def train(
    data: DataOption = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help=f"{LABELS_HELP} Default: auto.",
            metavar="NAME",
            show_default=False,
            autocompletion=complete_labels,
        ),
    ] = None,
    orientation: OrientationOption = None,
    names: NamesOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"{PRESET_HELP} Default: demo.",
            metavar="NAME",
            show_default=False,
            autocompletion=complete_preset,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="In place of --preset: a run's config.json, which repeats that run.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    changes: SetOption = None,
    resume: ResumeOption = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Use deterministic kernels; short for --set train.deterministic=true.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    output: OutputOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Train one network and test it.

    The validation set chooses the checkpoint that is tested. Exit code 130 or 143 if the run was
    stopped; --resume goes on with it.
    """
    assignments = [
        *with_orientation(changes, orientation),
        *(["train.deterministic=true"] if deterministic else []),
    ]
    asked = data or labels or names or preset or config_file or assignments
    fresh = _config(data, labels, names, preset, config_file, assignments)
    config = fresh if asked or not resume else None

    from segmamba.orchestration.single import RunOptions, run_single

    options = RunOptions(config=config, fresh=fresh, output=output, resume=resume, device=device)
    finished = _watched(lambda callback: run_single(options, callback), as_json=as_json)
    if as_json:
        print_json({"folder": str(finished.folder.root), **finished.final.as_dict()})
    else:
        _print_scores(finished)


def reproduce(
    run_id: Annotated[
        str, typer.Argument(help="MLflow's id of a run or of a study's trial.", metavar="RUN_ID")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Where the run's data set is now, if it was moved.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
    output: OutputOption = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Repeat a run and compare its metrics and weights.

    MLflow's record of the run says how it was trained. Exit code 0 if everything is the same, 1 if
    not.
    """
    from segmamba.orchestration.reproduce import render, reproduce_run

    comparison = _watched(
        lambda callback: reproduce_run(run_id, data, device, output, callback), as_json=as_json
    )
    if as_json:
        print_json(comparison.as_dict())
    else:
        render(comparison, console())
    raise typer.Exit(0 if comparison.same else 1)


def _config(
    data: Path | None,
    labels: str | None,
    names: list[str] | None,
    preset: str | None,
    config_file: Path | None,
    assignments: list[str],
) -> Config:
    """Build the Config that the options of `segmamba train` ask for."""
    if preset and config_file:
        raise UserError(
            "--preset and --config: give one of the two; --set changes single settings of either"
        )
    from segmamba.data.source import source_changes

    base = load_config(config_file) if config_file else preset_named(preset or "demo")
    changes = source_changes(
        data or base.data.source or None, labels or base.data.labels, names or base.data.names
    )
    return base.changed(changes | parse_assignments(assignments))


def _watched(work: Callable[[RunProgress], Result], *, as_json: bool) -> Result:
    """Do the work and show its progress; exit where the run does not reach its end."""
    from segmamba.commands.run_progress import RunProgress

    with RunProgress(console(stderr=as_json)) as progress:
        try:
            with progress.stoppable():
                return work(progress)
        except Stopped as stop:
            progress.say(
                "stopped  the last whole epoch is saved; "
                "the same command with --resume goes on with it"
            )
            raise typer.Exit(128 + stop.number) from stop
        except RunStopped as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


def _print_scores(finished: FinishedRun) -> None:
    """Print a table of the test's scores, and where the run is."""
    from rich.table import Table

    from segmamba.evaluation.patients import counted, row_patient

    final, screen = finished.final, console()
    table = Table(box=None, pad_edge=False)
    for name in ("region", "Dice", "HD95, mm"):
        table.add_column(name, justify="left" if name == "region" else "right")
    dice = "test/dice_"
    for name, value in final.metrics.items():
        if name.startswith(dice):
            region = name.removeprefix(dice)
            hd95_mm = final.metrics.get(f"test/hd95_mm_{region}")
            table.add_row(region, points(value), "" if hd95_mm is None else f"{hd95_mm:.1f}")
    print_line(
        screen,
        f"tested   {final.tested_checkpoint} checkpoint, epoch {final.tested_epoch}, "
        f"on {counted((c['case'] for c in final.cases), map(row_patient, final.cases))}",
    )
    screen.print(table)
    print_line(screen, f"run      {finished.folder.root}")
    if finished.mlflow_uri:
        print_runs(screen, finished.mlflow_uri, finished.mlflow_page)
