"""doctor, describe, phantom, settings: this machine, the network, the embedded data, the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import (
    AsJson,
    Changes,
    PresetName,
    console,
    print_json,
    print_settings,
    progress_bar,
)
from segmamba.config import PhantomConfig, parse_assignments, preset


def doctor(
    output: Annotated[Path, typer.Option(help="Folder that results would go to.")] = Path(
        "Results"
    ),
    as_json: AsJson = False,
):
    """Check this machine: what runs, how fast, and the command that mends what is missing."""
    from segmamba.doctor import as_rows, examine, exit_code, render
    from segmamba.environment import describe_environment

    checks, versions = examine(output), describe_environment()
    if as_json:
        print_json({"checks": as_rows(checks), "versions": versions})
    else:
        render(checks, versions, console())
    raise typer.Exit(exit_code(checks))


def describe(
    preset_name: PresetName = "paper",
    changes: Changes = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Patches in a batch; short for --set train.batch_size=N.", show_default=False
        ),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(
            help="Voxels X,Y,Z of a patch; short for --set data.patch_size=X,Y,Z.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also train two steps here and print their peak memory."),
    ] = False,
    as_json: AsJson = False,
):
    """Show a network's shapes, parameters and FLOPs, and the memory that training it takes."""
    assignments = list(changes or [])
    assignments += [] if batch is None else [f"train.batch_size={batch}"]
    assignments += [] if patch is None else [f"data.patch_size={patch}"]
    config = preset(preset_name).changed(parse_assignments(assignments))

    from segmamba.describe_table import describe, render

    described = describe(config, measure=measure)
    if as_json:
        print_json(described)
    else:
        render(described, console())


def phantom(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Where the cases go; a folder begun earlier is completed.", metavar="DIR"
        ),
    ],
    cases: Annotated[int, typer.Option(help="How many.")] = PhantomConfig.cases,
    size: Annotated[str, typer.Option(help="Voxels X,Y,Z of a case.")] = ",".join(
        map(str, PhantomConfig.size)
    ),
    seed: Annotated[int, typer.Option(help="Which heads and tumours.")] = PhantomConfig.seed,
):
    """Write the embedded phantom: BraTS-format cases with real anatomy and invented tumours."""
    wanted = (
        preset("paper")
        .changed(
            parse_assignments([f"phantom.size={size}"])
            | {"phantom.cases": cases, "phantom.seed": seed}
        )
        .phantom
    )

    from segmamba.data.phantom import write_phantom

    with progress_bar("making cases") as progress:
        write_phantom(
            folder, cases=wanted.cases, size=wanted.size, seed=wanted.seed, progress=progress
        )
    print(folder)


def settings(preset_name: PresetName = "paper"):
    """List every setting of a preset with its value and what it means."""
    print_settings(preset_name)
