"""The command line of experiments/ablate_inference.py.

Imports nothing slow: `--help` answers at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from segmamba.commands.shared import (
    RESULTS,
    DeviceOption,
    JsonOption,
    NamesOption,
    OrientationOption,
    OutputOption,
    ReadingSetOption,
    TrainingDataOption,
    TrainingLabelsOption,
    new_app,
    print_json,
    reading_changes,
    run_app,
)
from segmamba.errors import UserError
from segmamba.screen import print_line


def inference_command(arms: Mapping[str, dict[str, Any]], baseline: str) -> None:
    """Score and report arms of inference on trained networks, and exit.

    The exit code is 0 where all is done and 2 for the user's mistake.

    Args:
        arms: Name to dotted changes of the configuration.
        baseline: The arm that every other one is compared with.
    """
    app = new_app()

    @app.command()
    def run(
        checkpoint: Annotated[
            list[Path],
            typer.Option(
                help="A run's folder, or weights with config.json beside or above them. May be "
                "repeated for the training runs of one configuration.",
                metavar="PATH",
            ),
        ],
        data: TrainingDataOption = None,
        labels: TrainingLabelsOption = None,
        orientation: OrientationOption = None,
        reading: ReadingSetOption = None,
        names: NamesOption = None,
        only: Annotated[
            list[str] | None,
            typer.Option(
                "--arms",
                help=f"Run only this arm beside '{baseline}'; may be repeated. Default: all of "
                f"{', '.join(arms)}.",
                metavar="ARM",
                show_default=False,
            ),
        ] = None,
        device: DeviceOption = "auto",
        output: OutputOption = RESULTS,
        as_json: JsonOption = False,
    ) -> None:
        """What is each part of inference worth?

        The arms are mirror images, scales, overlap, component removal and CRF. Nothing is trained.
        """
        for name in only or ():
            if name not in arms:
                raise UserError(
                    f"--arms {name!r}: no such arm; choose of {', '.join(map(repr, arms))}"
                )
        chosen = {
            name: changes for name, changes in arms.items() if not only or name in (baseline, *only)
        }

        from rich.console import Console

        from segmamba.orchestration.engine.progress import StudyProgress
        from segmamba.orchestration.inference_ablation import (
            InferenceOptions,
            run_inference_ablation,
        )
        from segmamba.reports.inference_report import as_dict, render_terminal

        screen = Console(stderr=as_json, soft_wrap=False)
        with StudyProgress(screen) as progress:
            ablation, report = run_inference_ablation(
                checkpoint,
                chosen,
                baseline,
                InferenceOptions(
                    data=data,
                    labels=labels,
                    reading=reading_changes(reading, orientation),
                    names=tuple(names or ()),
                    output=output,
                    device=device,
                ),
                progress,
            )
        if as_json:
            print_json(as_dict(ablation))
        render_terminal(ablation, screen)
        print_line(screen, f"report   {report}")

    run_app(app)
