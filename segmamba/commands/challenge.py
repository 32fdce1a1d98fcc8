"""segmamba challenge and segmamba infer: prediction as the programs of challenges start it.

A container has these as its entry point; docs/how-to/container.md says how it is built and run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.predict import run_prediction
from segmamba.commands.shared import (
    CONVENTIONS_HELP,
    DeviceOption,
    FlipsOption,
    SetOption,
    complete_labels,
    console,
)
from segmamba.config import parse_assignments
from segmamba.errors import UserError
from segmamba.screen import print_line

MODEL = "SEGMAMBA_MODEL"
"""The environment variable that names the folder of the model."""
MODEL_FOLDER = Path("/opt/segmamba/model")
"""Where a container has its model."""
NO_GPU_KERNELS = (
    "the scan runs as torch's operators, which is slower: its kernels for the GPU are compiled "
    "when they first run, and no folder that can be written lets programs be loaded; give the "
    "container --tmpfs /tmp:exec"
)

ModelOption = Annotated[
    Path,
    typer.Option(
        "--model",
        "--weights",
        help="Folder that holds the networks: a run's, or several beside each other, which then "
        "vote.",
        metavar="DIR",
        envvar=MODEL,
    ),
]
ValuesOption = Annotated[
    str,
    typer.Option(
        "--labels",
        help=f"Label convention of the written values: {CONVENTIONS_HELP}",
        metavar="NAME",
        autocompletion=complete_labels,
    ),
]


def challenge(
    input: Annotated[
        Path, typer.Argument(help="Folder of cases, which is only read.", metavar="INPUT")
    ] = Path("/input"),
    output: Annotated[
        Path,
        typer.Argument(help="Folder that gets CASE.nii.gz and nothing else.", metavar="OUTPUT"),
    ] = Path("/output"),
    model: ModelOption = MODEL_FOLDER,
    labels: ValuesOption = "auto",
    flips: FlipsOption = False,
    device: DeviceOption = "auto",
    changes: SetOption = None,
) -> None:
    """Segment the cases of /input into /output, as BraTS's orchestrator starts a container.

    A case that fails is named on stderr, and the others are written all the same; the exit code is
    then 2, or 1 where a failure is not explained by the case's files. It needs no network, no home
    and no file system that can be written but OUTPUT and, of some megabytes, /tmp.
    """
    _segment(input, output, model, labels, device, changes, flips=flips)


def infer(
    data_path: Annotated[Path, typer.Option("--data_path", help="Folder of cases.", metavar="DIR")],
    output_path: Annotated[
        Path, typer.Option("--output_path", help="Folder that gets CASE.nii.gz.", metavar="DIR")
    ],
    model: ModelOption = MODEL_FOLDER,
    parameters_file: Annotated[
        Path | None,
        typer.Option(
            "--parameters_file",
            help="Taken because MLCube passes it; not read, for config.json has all parameters.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    labels: ValuesOption = "auto",
    flips: FlipsOption = False,
    device: DeviceOption = "auto",
    changes: SetOption = None,
) -> None:
    """Segment cases as `challenge` does, with the options of MLCube: BraTS until 2024 and FeTS.

    The exit codes are those of `challenge`.
    """
    if parameters_file:
        note = f"--parameters_file {parameters_file} is not read: the model's config.json holds all"
        print_line(console(stderr=True), f"note: {note}")
    _segment(data_path, output_path, model, labels, device, changes, flips=flips)


def _segment(
    source: Path,
    output: Path,
    model: Path,
    labels: str,
    device: str,
    changes: list[str] | None,
    *,
    flips: bool,
) -> None:
    """Predict every case with the model, and exit with the code of `predict`."""
    from segmamba.caches import writable_caches

    if not model.is_dir():
        raise UserError(
            f"{model}: no such folder; copy a run's folder there, or name the model's with "
            f"--model or {MODEL}"
        )
    settings = parse_assignments(changes or ()) | ({"inference.flips": True} if flips else {})
    with writable_caches() as programs_run:
        from segmamba.device import choose_device
        from segmamba.inference.outputs import Outputs
        from segmamba.models.cpu_library import find_library
        from segmamba.orchestration.tracking.model_folder import load_folder

        screen, kind = console(stderr=True), choose_device(device).type
        if kind == "cuda" and not programs_run:
            print_line(screen, f"note: {NO_GPU_KERNELS}")
            settings = {"model.scan": "portable"} | settings
        if kind == "cpu" and find_library()[0] is None:
            reason = find_library()[1]
            print_line(screen, f"note: all runs as torch's operators, which is slower: {reason}")
        predictor = load_folder(model, device, changes=settings)
        outputs = Outputs(output, None if labels in ("auto", "mixed") else labels, record=False)
        code = run_prediction(predictor, source, labels, outputs, [str(model)], as_json=False)
    raise typer.Exit(code)
