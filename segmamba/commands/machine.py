"""doctor, describe, phantom, settings: the machine, the network, the phantom, the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import may_become_folder
from segmamba.commands.shared import (
    RESULTS,
    JsonOption,
    OutputOption,
    PresetOption,
    SetOption,
    console,
    print_json,
    print_settings,
    progress_bar,
)
from segmamba.config import PhantomConfig, parse_assignments, preset
from segmamba.errors import UserError


def doctor(output: OutputOption = RESULTS, as_json: JsonOption = False) -> None:
    """Check what runs here and how to mend what does not.

    Exit code 1 if something would stop a run.
    """
    from segmamba.doctor import as_rows, examine, exit_code, render
    from segmamba.environment import describe_environment

    checks, versions = examine(output), describe_environment()
    if as_json:
        print_json({"checks": as_rows(checks), "versions": versions})
    else:
        render(checks, versions, console())
    raise typer.Exit(exit_code(checks))


def describe(
    preset_name: PresetOption = "paper",
    changes: SetOption = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Patches in a batch; short for --set train.batch_size=N.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    patch: Annotated[
        str | None,
        typer.Option(
            help="Voxels of a patch; short for --set data.patch_size=X,Y,Z.",
            metavar="X,Y,Z",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Also train two steps here and print their peak memory."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a network's shapes, parameters and costs.

    The costs are the FLOPs of a forward pass and of a training step, and the memory of training.
    """
    assignments = list(changes or [])
    assignments += [] if batch is None else [f"train.batch_size={batch}"]
    assignments += [] if patch is None else [f"data.patch_size={patch}"]
    config = preset(preset_name).changed(parse_assignments(assignments))

    from segmamba.describe_table import describe, render

    description = describe(config, measure=measure)
    if as_json:
        print_json(description)
    else:
        render(description, console())


def phantom(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The same as --output DIR.", metavar="DIR", callback=may_become_folder),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the cases go; a folder begun earlier is completed.",
            metavar="DIR",
            callback=may_become_folder,
            show_default=False,
        ),
    ] = None,
    cases: Annotated[int, typer.Option(help="How many cases.", metavar="N")] = PhantomConfig.cases,
    size: Annotated[str, typer.Option(help="Voxels of a case.", metavar="X,Y,Z")] = ",".join(
        map(str, PhantomConfig.size)
    ),
    seed: Annotated[
        int, typer.Option(help="Chooses the heads and tumours.", metavar="N")
    ] = PhantomConfig.seed,
    kind: Annotated[
        str,
        typer.Option(help="The disease: glioma, post_treatment or pediatric.", metavar="NAME"),
    ] = PhantomConfig.kind,
) -> None:
    """Write BraTS-format cases of the embedded phantom.

    The phantom has real anatomy and invented tumours.
    """
    if (folder is None) == (output is None):
        raise UserError("say once where the cases go: --output DIR")
    target = folder or output
    assert target is not None
    changes = parse_assignments([f"phantom.size={size}"])
    changes |= {"phantom.cases": cases, "phantom.seed": seed, "phantom.kind": kind}
    settings = preset("paper").changed(changes).phantom

    from segmamba.data.phantom import write_phantom

    with progress_bar("making cases") as progress:
        write_phantom(
            target,
            cases=settings.cases,
            size=settings.size,
            seed=settings.seed,
            kind=settings.kind,
            progress=progress,
        )
    print(target)


def settings(preset_name: PresetOption = "paper") -> None:
    """List every setting with its value and its meaning."""
    print_settings(preset_name)
