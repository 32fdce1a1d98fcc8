"""segmamba train, segmamba reproduce: one run, and the same run again."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import LABELS_HELP, AsJson, Changes, console, print_json, shown_uri
from segmamba.config import PRESETS, load_config, parse_assignments
from segmamba.config import preset as config_of
from segmamba.errors import RunStopped, Stopped, UserError
from segmamba.screen import print_line

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of BraTS cases, or another known layout. Without it: embedded phantom data.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Output = Annotated[
    Path, typer.Option(help="Folder for the run's folder, the MLflow store and the cache.")
]


def train(
    data: Data = None,
    labels: Annotated[
        str | None, typer.Option(help=LABELS_HELP + " Default: auto.", show_default=False)
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help=f"Settings to start from: {', '.join(PRESETS)}. Default: demo.",
            show_default=False,
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Or from a run's config.json, which repeats that run.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    changes: Changes = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the newest unfinished run; start one where there is none."
        ),
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Deterministic kernels; short for --set train.deterministic=true.",
        ),
    ] = False,
    device: Device = "auto",
    output: Output = Path("Results"),
    as_json: AsJson = False,
):
    """Train one network, choose its checkpoint on the validation set and test it. Exit code 130 or 143 if it was stopped; --resume goes on."""
    asked = {
        "data": data,
        "labels": labels,
        "preset": preset_name,
        "config": config_file,
        "set": changes,
        "deterministic": deterministic,
    }
    config = None if resume and not any(asked.values()) else _config(**asked)

    from segmamba.orchestration.single import RunOptions, run_single

    options = RunOptions(config=config, output=output, resume=resume, device=device)
    finished = _watched(lambda callback: run_single(options, callback), as_json)
    _tell(finished, as_json)


def reproduce(
    run_id: Annotated[
        str, typer.Argument(help="MLflow's id of a run or of a study's trial.", metavar="RUN_ID")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Where its data are now, if they were moved.", show_default=False),
    ] = None,
    device: Device = "auto",
    output: Output = Path("Results"),
    as_json: AsJson = False,
):
    """Repeat a run from what MLflow knows of it and compare metrics and weights. Exit code 0 if they are the same, 1 if not."""
    from segmamba.orchestration.reproduce import render, reproduce_run

    compared = _watched(
        lambda callback: reproduce_run(run_id, data, device, output, callback), as_json
    )
    if as_json:
        print_json(compared.as_dict())
    else:
        render(compared, console())
    raise typer.Exit(0 if compared.same else 1)


def _config(*, data, labels, preset, config, set, deterministic):
    if preset and config:
        raise UserError(
            "--preset and --config: give one of the two; --set changes single settings of either"
        )
    from segmamba.data.source import source_changes

    base = load_config(config) if config else config_of(preset or "demo")
    wanted = source_changes(data or base.data.source or None, labels or base.data.labels)
    return base.changed(
        wanted
        | parse_assignments(set or [])
        | ({"train.deterministic": True} if deterministic else {})
    )


def _watched(work, as_json):
    """work(RunProgress), and the exit codes of a run that does not reach its end."""
    from segmamba.commands.run_progress import RunProgress

    with RunProgress(console(stderr=as_json)) as callback:
        try:
            with callback.stoppable():
                return work(callback)
        except Stopped as stop:
            callback.say(
                "stopped  the last whole epoch is saved; the same command with --resume goes on with it"
            )
            raise typer.Exit(128 + stop.number) from stop
        except RunStopped as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


def _tell(finished, as_json):
    final, folder = finished.final, finished.folder
    if as_json:
        print_json({"folder": str(folder.root), **final.as_dict()})
        return
    from rich.table import Table

    from segmamba.data.labels import REGIONS

    table = Table(box=None, pad_edge=False)
    for name in ("region", "Dice", "HD95, mm"):
        table.add_column(name, justify="left" if name == "region" else "right")
    for region in (*REGIONS, "mean"):
        distance = f"{final.metrics[f'test/hd95_mm_{region}']:.1f}" if region != "mean" else ""
        table.add_row(region, f"{final.metrics[f'test/dice_{region}']:.3f}", distance)
    out = console()
    print_line(
        out,
        f"tested   {final.tested_checkpoint} checkpoint, epoch {final.tested_epoch}, on {len(final.cases)} cases",
    )
    out.print(table)
    lines = [f"run      {folder.root}"]
    lines += (
        [f"runs     mlflow ui --backend-store-uri {shown_uri(finished.mlflow_uri)}"]
        if finished.mlflow_uri
        else []
    )
    for line in lines:
        print_line(out, line)
