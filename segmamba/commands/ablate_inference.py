"""The command line of experiments/ablate_inference.py. Imports nothing slow: `--help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import LABELS_HELP, AsJson, print_json, run_app
from segmamba.errors import UserError
from segmamba.screen import print_line


def inference_command(arms, baseline):
    """Score arms of inference on trained checkpoints, report them, and exit: 0 done, 2 the user's mistake."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command()
    def run(
        checkpoint: Annotated[
            list[Path],
            typer.Option(
                help="A run's folder or its weights; several are training runs of one configuration.",
                metavar="PATH",
            ),
        ],
        data: Annotated[
            Path | None,
            typer.Option(
                help="The data set it was trained on. Default: the one that config.json names.",
                metavar="DIR",
                show_default=False,
            ),
        ] = None,
        labels: Annotated[
            str | None,
            typer.Option(help=LABELS_HELP + " Default: as config.json says.", show_default=False),
        ] = None,
        only: Annotated[
            list[str] | None,
            typer.Option(
                "--arms",
                help=f"Run only this arm beside '{baseline}'; may be repeated. Default: all of "
                f"{', '.join(arms)}.",
                show_default=False,
            ),
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
        output: Annotated[
            Path, typer.Option(help="Folder for results, the MLflow store and the cache.")
        ] = Path("Results"),
        as_json: AsJson = False,
    ):
        """What is each part of inference worth? Mirror images, scales, overlap, component removal and CRF, without training."""
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
        from segmamba.orchestration.inference_ablation import run_inference_ablation
        from segmamba.reports.inference_report import as_dict, render_terminal

        screen = Console(stderr=as_json, soft_wrap=False)
        with StudyProgress(screen) as progress:
            found, report = run_inference_ablation(
                checkpoint,
                chosen,
                baseline,
                data=data,
                labels=labels,
                output=output,
                device=device,
                progress=progress,
            )
        if as_json:
            print_json(as_dict(found))
        render_terminal(found, screen)
        print_line(screen, f"report   {report}")

    run_app(app)
