"""segmamba export: a trained run for other tools."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import may_become_file, may_become_folder, old_names
from segmamba.commands.shared import complete_labels, console
from segmamba.errors import UserError
from segmamba.screen import print_line


@old_names({"--bundle": "--output"})
def export(
    checkpoint: Annotated[
        list[Path],
        typer.Option(
            help="A run's folder, or weights with config.json beside or above them. A network of "
            "an ensemble is exported by itself.",
            metavar="PATH",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="New folder, which becomes the MONAI bundle.",
            metavar="DIR",
            callback=may_become_folder,
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            help="New FILE.onnx, which onnxruntime runs without torch, and FILE.onnx.json, which "
            "says how. Needs segmamba[export].",
            metavar="FILE",
            callback=may_become_file,
            show_default=False,
        ),
    ] = None,
    pt2: Annotated[
        Path | None,
        typer.Option(
            "--pt2",
            help="New FILE.pt2 (torch.export, AOTInductor), which torch runs on a CPU without this "
            "package, and FILE.pt2.json. Needs a C++ compiler.",
            metavar="FILE",
            callback=may_become_file,
            show_default=False,
        ),
    ] = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Let the ONNX file take any batch and window. Without, it takes one window of "
            "data.patch_size, and is faster.",
        ),
    ] = False,
    labels: Annotated[
        str,
        typer.Option(
            help="Convention of the values that are written. auto: that of the network's "
            "classes, brats2023, brats2024 or brats2024ped.",
            metavar="NAME",
            autocompletion=complete_labels,
        ),
    ] = "auto",
) -> None:
    """Write a run as a MONAI bundle, an ONNX file or a .pt2 package.

    MONAI's tools load and run the bundle. The files run without this package; each is run on a
    random patch, and compared with the network, before it appears.
    """
    if len(checkpoint) > 1:
        raise UserError(
            f"--checkpoint: an exported file holds one network, not {len(checkpoint)}; export each "
            "by itself and average the probabilities, as segmamba predict does"
        )
    if output is None and onnx is None and pt2 is None:
        raise UserError("nothing to write: give --output DIR, --onnx FILE.onnx or --pt2 FILE.pt2")
    if dynamic and onnx is None:
        raise UserError("--dynamic is for --onnx FILE.onnx; the others have one window, or any")
    if onnx is not None or pt2 is not None:  # before anything is written
        from segmamba.inference.exported_file import check_file

        for file, ending in ((onnx, ".onnx"), (pt2, ".pt2")):
            if file is not None:
                check_file(file, ending)
    if output is not None:
        from segmamba.inference.export import export_bundle

        print(export_bundle(checkpoint[0], output, labels=labels))
    if onnx is not None:
        from segmamba.inference.onnx_file import export_onnx

        _say(onnx, export_onnx(checkpoint[0], onnx, labels=labels, dynamic=dynamic).notes)
    if pt2 is not None:
        from segmamba.inference.pt2_file import export_pt2

        _say(pt2, export_pt2(checkpoint[0], pt2, labels=labels).notes)


def _say(file: Path, notes: tuple[str, ...]) -> None:
    for note in notes:
        print_line(console(), note)
    print(file)
