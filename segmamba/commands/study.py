"""The command line that every study's script shares. Imports nothing slow: `--help` answers at once."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segmamba.commands.shared import LABELS_HELP, print_settings, run_app
from segmamba.config import PRESETS, parse_assignments


def study_command(spec):
    """Run `spec` as a command and exit: 0 done, 1 a trial failed, 2 the user's mistake, 130 stopped by Ctrl-C."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command(help=f"{spec.question}\n\n{spec.hypothesis.claim}")
    def run(
        data: Annotated[Path | None, typer.Option(help="Folder of BraTS cases. Without it: embedded phantom data.", show_default=False)] = None,
        labels: Annotated[str, typer.Option(help=LABELS_HELP)] = "auto",
        preset: Annotated[str, typer.Option(help=f"Settings to start from: {', '.join(PRESETS)}. demo: minutes on a CPU; quick: an hour on "
                                            "one GPU; paper: 300 epochs of 250 steps.")] = "demo",
        seeds: Annotated[int, typer.Option(help="Training runs per arm. With one, the verdict is always undecided.")] = 2,
        set: Annotated[list[str] | None, typer.Option(help="Change a setting, name=value, e.g. optim.lr=3e-4; may be repeated. "
                                                      "--list-settings shows all.", show_default=False)] = None,
        arms: Annotated[list[str] | None, typer.Option(help="Run only this arm; may be repeated. Default: all of " + ", ".join(spec.arms) + ".",
                                                       show_default=False)] = None,
        gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs for one trial; 0.5 runs two on one GPU. Default: 1 where there is "
                                                             "a GPU, else the CPU.", show_default=False)] = None,
        cpus: Annotated[int, typer.Option(help="CPU cores for the whole study; 0 takes all.")] = 0,
        output: Annotated[Path, typer.Option(help="Folder for results, the MLflow store and the cache.")] = Path("Results"),
        resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest unfinished run of this study; start one where there is "
                                             "none.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print the result table as JSON instead.")] = False,
        list_settings: Annotated[bool, typer.Option("--list-settings", help="Show every setting with its default and unit, and exit.")] = False,
    ):  # fmt: skip
        if list_settings:
            print_settings(preset)
            return

        from segmamba.orchestration.study import StudyOptions

        changes = parse_assignments(set or [])
        options = StudyOptions(
            data=data, labels=labels, preset=preset, seeds=seeds, gpus_per_trial=gpus_per_trial, cpus=cpus, output=output,
            resume=resume, changes=changes,
        )
        raise typer.Exit(_run(spec.only(arms or []), options, as_json))

    run_app(app)


def _run(spec, options, as_json):
    from segmamba.orchestration.progress import StudyProgress
    from segmamba.orchestration.report import render_terminal, result_table
    from segmamba.orchestration.study import run_study

    console = Console(stderr=as_json, soft_wrap=False)
    with StudyProgress(console) as progress:
        study, folder = run_study(spec, options, progress)
    if as_json:
        print(json.dumps(result_table(study), indent=1))
    render_terminal(study, console)
    progress.say(f"report   {folder / 'report.html'}")
    progress.say(f"runs     mlflow ui --backend-store-uri {_shown_uri(study.mlflow_uri)}")
    if any(trial.status in ("KILLED", "NOT STARTED") for trial in study.trials):
        progress.say("stopped  the same command with --resume goes on with it")
        return 130
    return 0 if all(trial.status == "FINISHED" for trial in study.trials) else 1


def _shown_uri(uri):
    """The store as one would type it: relative to the working directory where that is possible."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{path.relative_to(Path.cwd())}"
    return shlex.quote(uri)
