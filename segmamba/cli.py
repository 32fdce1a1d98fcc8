"""The `segmamba` command: a table of contents. Each command imports what it needs when it runs, so that --help answers at once."""

import typer

from segmamba.commands import data, evaluate, export, machine, predict, pretrain, study, train
from segmamba.commands.shared import run_app

app = typer.Typer(
    help="Mamba U-Nets for brain tumour segmentation.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for command in (
    machine.doctor,
    machine.describe,
    machine.phantom,
    machine.settings,
    pretrain.pretrain,
    train.train,
    train.reproduce,
    predict.predict,
    export.export,
    evaluate.evaluate,
    evaluate.compare,
    evaluate.tune_postprocessing,
    study.studies,
    study.report,
):
    app.command()(command)
app.command(context_settings=study.PASS_ON)(study.study)
app.add_typer(data.app, name="data")


def main():
    """Exit code 0 done, 1 a problem of ours or of the machine, 2 the user's mistake."""
    run_app(app)


if __name__ == "__main__":
    main()
