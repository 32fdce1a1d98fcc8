"""segmamba export: a trained run for other tools."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            help="A run's folder or its weights, config.json beside or above.", metavar="PATH"
        ),
    ],
    bundle: Annotated[Path, typer.Option(help="New folder for a MONAI bundle.", metavar="DIR")],
    labels: Annotated[
        str, typer.Option(help="Convention of the values that the bundle writes.")
    ] = "brats2023",
):
    """Write a run as a MONAI bundle, which MONAI's tools load and run."""
    from segmamba.inference.export import export_bundle

    print(export_bundle(checkpoint, bundle, labels=labels))
