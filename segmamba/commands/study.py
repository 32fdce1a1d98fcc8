"""The command line that every study's script shares, and the commands about studies. Imports nothing slow: `--help` answers at once."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segmamba.commands.shared import (
    LABELS_HELP,
    STOPPED,
    AsJson,
    console,
    print_json,
    print_settings,
    run_app,
    shown_uri,
)
from segmamba.config import PRESETS, parse_assignments
from segmamba.config import preset as preset_config
from segmamba.errors import UserError
from segmamba.screen import print_line

Output = Annotated[Path, typer.Option(help="Folder for results, the MLflow store and the cache.")]
PBT_HELP = "pbt: population-based training, whose worst members copy the best and change settings; finds a schedule. "
PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}  # click: what follows FILE is its own
MISTAKES = (
    ImportError,
    SyntaxError,
    NameError,
    TypeError,
    AttributeError,
    LookupError,
    ValueError,
)  # of a user's own study file


def study_command(study, arguments=None):
    """Run `study`, a StudySpec or a function from the preset's Config to one, as a command and exit.

    0 done, 1 a trial failed, 2 the user's mistake, 130 stopped by Ctrl-C. `arguments` stand in for those of the process.
    """
    run_app(study_app(study), arguments)


def study_app(study):
    """The typer app of a study: every option that a study takes."""
    from segmamba.studies.spec import resolve

    shown = resolve(study, preset_config("demo"))
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    arms_help = "Run only this arm; may be repeated; all runs every one. Default: all" + (
        f", in the demo preset {', '.join(shown.demo_arms)}."
        if shown.demo_arms
        else " of " + ", ".join(shown.arms) + "."
    )

    @app.command(help=f"{shown.question}\n\n{shown.hypothesis.claim}")
    def run(
        data: Annotated[
            Path | None,
            typer.Option(
                help="Folder of BraTS cases. Without it: embedded phantom data.", show_default=False
            ),
        ] = None,
        labels: Annotated[str, typer.Option(help=LABELS_HELP)] = "auto",
        preset: Annotated[
            str,
            typer.Option(
                help=f"Settings to start from: {', '.join(PRESETS)}. demo: minutes on a CPU; quick: an hour on "
                "one GPU; paper: 300 epochs of 250 steps."
            ),
        ] = "demo",
        seeds: Annotated[
            int | None,
            typer.Option(
                help=f"Training runs per arm. With one, the verdict is always undecided. Default: "
                f"{shown.budget.seeds}.",
                show_default=False,
            ),
        ] = None,
        folds: Annotated[
            int,
            typer.Option(
                help="Cross-validate: every arm and seed on each of so many folds; 0 is one split."
            ),
        ] = 0,
        set: Annotated[
            list[str] | None,
            typer.Option(
                help="Change a setting, name=value, e.g. optim.lr=3e-4; may be repeated. "
                "--list-settings shows all.",
                show_default=False,
            ),
        ] = None,
        arms: Annotated[list[str] | None, typer.Option(help=arms_help, show_default=False)] = None,
        trials: Annotated[
            int | None,
            typer.Option(
                help=f"Of a search: settings tried, or members of its population. Default: "
                f"{shown.budget.trials}.",
                show_default=False,
                hidden=not shown.space,
            ),
        ] = None,
        scheduler: Annotated[
            str | None,
            typer.Option(
                help="none: every trial trains to its end. asha: stop early what the validation set likes least. "
                f"{PBT_HELP if shown.space else ''}Default: "
                f"{'asha' if shown.space else 'none, so that arms train alike'}.",
                show_default=False,
            ),
        ] = None,
        fresh: Annotated[
            bool,
            typer.Option(
                "--fresh", help="Train again what a finished run has trained to the letter before."
            ),
        ] = False,
        gpus_per_trial: Annotated[
            str,
            typer.Option(
                help="GPUs for one trial; 0.5 runs two on one GPU. auto: measured, whichever ends "
                "soonest."
            ),
        ] = "auto",
        cpus: Annotated[int, typer.Option(help="CPU cores for the whole study; 0 takes all.")] = 0,
        output: Output = Path("Results"),
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Go on with the newest unfinished run of this study; start one where there is "
                "none.",
            ),
        ] = False,
        plan: Annotated[
            bool,
            typer.Option(
                "--plan",
                help="Measure each arm for a few steps, print hours, memory and disk, and exit.",
            ),
        ] = False,
        ray_address: Annotated[
            str | None,
            typer.Option(
                help="Run on the Ray cluster at this address (docs/cluster.md). Default: on this "
                "machine alone.",
                show_default=False,
            ),
        ] = None,
        cache: Annotated[
            str | None,
            typer.Option(
                help="Folder of the preprocessed cases; on a cluster each node's own, e.g. "
                "'$TMPDIR/segmamba'. Default: in the output folder.",
                show_default=False,
            ),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the result table as JSON instead.")
        ] = False,
        list_settings: Annotated[
            bool,
            typer.Option(
                "--list-settings", help="Show every setting with its default and unit, and exit."
            ),
        ] = False,
    ):
        if list_settings:
            print_settings(preset)
            return

        from segmamba.orchestration.engine.options import StudyOptions

        options = StudyOptions(
            data=data,
            labels=labels,
            preset=preset,
            seeds=seeds,
            folds=folds,
            trials=trials,
            arms=tuple(arms or ()),
            scheduler=scheduler,
            fresh=fresh,
            gpus_per_trial=_gpus(gpus_per_trial),
            cpus=cpus,
            output=output,
            resume=resume,
            plan=plan,
            ray_address=ray_address,
            cache=cache,
            changes=parse_assignments(set or []),
        )
        if plan:
            _plan(study, options, as_json)
            return
        raise typer.Exit(_run(study, options, as_json))

    return app


def _gpus(text):
    """GPUs for one trial, or None for auto."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"--gpus-per-trial {text}: must be auto or a number, for example 0.5 for two trials on one GPU"
        ) from None


def _plan(study, options, as_json):
    from segmamba.orchestration.engine.plan_table import render_plan
    from segmamba.orchestration.engine.progress import StudyProgress
    from segmamba.orchestration.study import plan_study

    screen = console(stderr=as_json)
    with StudyProgress(screen) as progress:
        budget = plan_study(study, options, progress)
    if as_json:
        print_json(budget.as_dict())
    else:
        render_plan(budget, screen)


def _run(study, options, as_json):
    from segmamba.orchestration.engine.progress import StudyProgress
    from segmamba.orchestration.study import run_study

    screen = Console(stderr=as_json, soft_wrap=False)
    with StudyProgress(screen) as progress:
        try:
            done, folder = run_study(study, options, progress)
        except KeyboardInterrupt:  # before or after the trials, which end in an orderly way
            progress.say(STOPPED)
            return 130
        _show(done, folder, screen, progress.say, as_json)
        if any(
            trial.status in ("KILLED", "NOT STARTED") for trial in (*done.trials, *done.searched)
        ):
            progress.say(STOPPED)
            return 130
    return 1 if any(trial.status == "FAILED" for trial in done.trials) else 0


def _show(study, folder, screen, say, as_json):
    from segmamba.reports.tables import render_terminal, result_table

    if as_json:
        print(json.dumps(result_table(study), indent=1))
    render_terminal(study, screen)
    say(f"report   {folder / 'report.html'}")
    say(f"runs     mlflow ui --backend-store-uri {shown_uri(study.mlflow_uri)}")


def study(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="A Python file that defines STUDY, as those in search_spaces/ do.", metavar="FILE"
        ),
    ],
):
    """Run the study that a file of your own declares; FILE --help shows its options."""
    study_command(load_study(file), context.args)


def load_study(file):
    """STUDY of a Python file. A UserError names what is wrong with it."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a Python file that defines STUDY")
    file = file.resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None:
        raise UserError(f"{file}: no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except MISTAKES as error:
        lines = [
            frame.tb_lineno
            for frame in _frames(error.__traceback__)
            if frame.tb_frame.f_code.co_filename == str(file)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        raise UserError(f"{file}, line {line}: {type(error).__name__}: {error}") from error
    if not hasattr(module, "STUDY"):
        raise UserError(f"{file}: defines no STUDY; see the files in search_spaces/")
    return module.STUDY


def _frames(traceback):
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def studies(output: Output = Path("Results"), as_json: AsJson = False):
    """List the studies that have run, with their answers, newest first."""
    from segmamba.orchestration.listing import list_studies

    rows = list_studies(output)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for header, side in (
        ("study", "left"),
        ("began", "left"),
        ("state", "left"),
        ("trials", "right"),
        ("best Dice", "right"),
        ("answer", "left"),
    ):
        table.add_column(header, justify=side, no_wrap=header not in ("answer",))
    for row in rows:
        dice = "" if row["best_dice_mean"] is None else f"{100 * row['best_dice_mean']:.1f}"
        table.add_row(
            row["study"],
            row["began"],
            row["state"],
            f"{row['finished']}/{row['trials']}",
            dice,
            row["verdict"] or row["question"],
        )
    if rows:
        console().print(table)
    else:
        print_line(console(), f"no study has run in {output}")


def report(
    study: Annotated[
        str,
        typer.Argument(
            help="A study's name, with or without _RunNN (the newest), or its MLflow run id.",
            metavar="STUDY",
        ),
    ],
    output: Output = Path("Results"),
    as_json: AsJson = False,
):
    """Draw a study's report again, from what MLflow holds."""
    from segmamba.orchestration.listing import redraw

    found, folder = redraw(output, study)
    _show(
        found,
        folder,
        Console(stderr=as_json, soft_wrap=False),
        lambda text: print(text, file=sys.stderr if as_json else sys.stdout),
        as_json,
    )
