"""segmamba export: a trained run for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import old_names


@old_names({"--bundle": "--output"})
def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="A run's folder, or weights with config.json beside or above them.",
            metavar="PATH",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", help="New folder, which becomes the MONAI bundle.", metavar="DIR"),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="Convention of the values that the bundle writes. auto: that of the network's "
            "classes, brats2023, brats2024 or brats2024ped.",
            metavar="NAME",
        ),
    ] = "auto",
) -> None:
    """Write a run as a MONAI bundle.

    MONAI's tools load and run the bundle.
    """
    from segmamba.inference.export import export_bundle

    print(export_bundle(checkpoint, output, labels=labels))
