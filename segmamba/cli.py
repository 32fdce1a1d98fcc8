"""The `segmamba` command: a table of contents.

Each command imports what it needs when it runs, so that `--help` answers at once.
"""

from typing import Annotated

import typer

from search_spaces.ablate_inference import ARMS, BASELINE
from segmamba.commands import (
    ablate_inference,
    challenge,
    data,
    demo,
    ensemble,
    evaluate,
    export,
    machine,
    predict,
    pretrain,
    studies,
    study,
    train,
    tune,
)
from segmamba.commands.shared import new_app, run_app

app = new_app(
    help="Mamba U-Nets for brain tumour segmentation.", no_args_is_help=True, add_completion=True
)
for command in (
    demo.demo,
    machine.doctor,
    machine.describe,
    machine.phantom,
    machine.settings,
    pretrain.pretrain,
    train.train,
    train.reproduce,
    predict.predict,
    challenge.challenge,
    challenge.infer,
    export.export,
    evaluate.evaluate,
    evaluate.compare,
    tune.tune_postprocessing,
    studies.studies,
    studies.report,
    studies.compare_studies,
):
    app.command()(command)
app.command(context_settings=study.PASS_ON)(study.study)
app.command("ensemble")(ensemble.ensemble_run(ensemble.declared_members))
app.command("ablate-inference")(ablate_inference.inference_run(ARMS, BASELINE))
app.add_typer(data.app, name="data", short_help=data.app.info.help)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"segmamba {version('segmamba')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Declare the options that stand before a command's name."""


def main() -> None:
    """Run the command line and exit.

    The exit code is 0 where all is done, 1 for a problem of ours or of the machine and 2 for the
    user's mistake.
    """
    run_app(app)


if __name__ == "__main__":
    main()
