"""segmamba ablate-inference and experiments/ablate_inference.py: arms of inference.

Imports nothing slow: `--help` answers at once.
"""

from collections.abc import Callable, Mapping
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
    console,
    new_app,
    print_json,
    reading_changes,
    run_app,
)
from segmamba.errors import UserError
from segmamba.screen import print_line


def inference_command(arms: Mapping[str, dict[str, Any]], baseline: str) -> None:
    """Score and report arms of inference on trained networks, and exit.

    The exit code is 0 where all is done, 2 for the user's mistake and 130 where Ctrl-C stopped it.

    Args:
        arms: Name to dotted changes of the configuration.
        baseline: The arm that every other one is compared with.
    """
    app = new_app()
    app.command()(inference_run(arms, baseline))
    run_app(app)


def inference_run(arms: Mapping[str, dict[str, Any]], baseline: str) -> Callable[..., None]:
    """Make the function of the command, whose parameters are the command's options.

    Args:
        arms: Name to dotted changes of the configuration.
        baseline: The arm that every other one is compared with.
    """

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

        from segmamba.orchestration.engine.progress import StudyProgress
        from segmamba.orchestration.inference_ablation import (
            InferenceOptions,
            run_inference_ablation,
        )
        from segmamba.reports.inference_report import as_dict, render_terminal

        screen = console(stderr=as_json)
        options = InferenceOptions(
            data=data,
            labels=labels,
            reading=reading_changes(reading, orientation),
            names=tuple(names or ()),
            output=output,
            device=device,
        )
        with StudyProgress(screen) as progress:
            try:
                ablation, report = run_inference_ablation(
                    checkpoint, chosen, baseline, options, progress
                )
            except KeyboardInterrupt:
                progress.say("stopped  nothing is kept: the same command starts again")
                raise typer.Exit(130) from None
        if as_json:
            print_json(as_dict(ablation))
        render_terminal(ablation, screen)
        print_line(screen, f"report   {report}")

    return run
