"""The command line of experiments/ensemble.py. Imports nothing slow: `--help` answers at once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from segmamba.commands.shared import LABELS_HELP, STOPPED, print_settings, run_app
from segmamba.config import PRESETS, parse_assignments
from segmamba.errors import UserError
from segmamba.screen import print_line


def ensemble_command(members, expected_gain):
    """Train an ensemble, score it, report and register it, and exit: 0 done, 1 a member failed, 2 the user's mistake, 130 stopped.

    members(size, diverse=...) gives the study that trains them; expected_gain: (least, most) Dice over one member.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command()
    def run(
        data: Annotated[
            Path | None,
            typer.Option(
                help="Folder of BraTS cases. Without it: embedded phantom data.", show_default=False
            ),
        ] = None,
        labels: Annotated[str, typer.Option(help=LABELS_HELP)] = "auto",
        preset: Annotated[
            str, typer.Option(help=f"Settings to start from: {', '.join(PRESETS)}.")
        ] = "demo",
        members_are: Annotated[
            Literal["seeds", "diverse"],
            typer.Option(
                "--members",
                help="seeds: networks that differ in nothing but the seed. "
                "diverse: as many others, which also differ in augmentation and patch size, against them.",
            ),
        ] = "seeds",
        size: Annotated[int, typer.Option(help="Members of an ensemble.")] = 5,
        set: Annotated[
            list[str] | None,
            typer.Option(
                help="Change a setting, name=value, e.g. optim.lr=3e-4; may be repeated. "
                "--list-settings shows all.",
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
            float | None,
            typer.Option(
                help="GPUs for one training; 0.5 runs two on one GPU. Default: 1 where there is "
                "a GPU, else the CPU.",
                show_default=False,
            ),
        ] = None,
        cpus: Annotated[int, typer.Option(help="CPU cores for everything; 0 takes all.")] = 0,
        output: Annotated[
            Path, typer.Option(help="Folder for results, the MLflow store and the cache.")
        ] = Path("Results"),
        resume: Annotated[
            bool,
            typer.Option(
                "--resume",
                help="Go on with the newest unfinished run; start one where there is none.",
            ),
        ] = False,
        as_json: Annotated[
            bool,
            typer.Option(
                "--json", help="Print the members, the vote and the differences as JSON instead."
            ),
        ] = False,
        list_settings: Annotated[
            bool,
            typer.Option(
                "--list-settings", help="Show every setting with its default and unit, and exit."
            ),
        ] = False,
    ):
        """Train an ensemble, score every member, every subset and the whole, and register it as a model that predicts."""
        if list_settings:
            print_settings(preset)
            return
        if size < 2:
            raise UserError(f"--size {size}: an ensemble has at least 2 members")

        from segmamba.orchestration.engine.options import StudyOptions

        options = StudyOptions(
            data=data,
            labels=labels,
            preset=preset,
            seeds=1,
            fresh=fresh,
            gpus_per_trial=gpus_per_trial,
            cpus=cpus,
            output=output,
            resume=resume,
            changes=parse_assignments(set or []),
        )
        raise typer.Exit(
            _run(members(size, diverse=members_are == "diverse"), options, expected_gain, as_json)
        )

    run_app(app)


def _run(study, options, expected_gain, as_json):
    from rich.console import Console

    from segmamba.commands.shared import print_json
    from segmamba.orchestration.engine.progress import StudyProgress
    from segmamba.orchestration.study import open_study

    screen = Console(stderr=as_json, soft_wrap=False)
    with StudyProgress(screen) as progress:
        try:
            with open_study(study, options, progress) as (
                done,
                folder,
            ):  # not finished before the vote is reported and registered
                if code := _missing(done, folder, progress.say):
                    return code

                from segmamba.orchestration.ensemble_study import finish_ensemble
                from segmamba.reports.ensemble_report import as_dict, render_terminal

                found, report = finish_ensemble(done, options, expected_gain, progress)
        except KeyboardInterrupt:
            progress.say(STOPPED)
            return 130
    if as_json:
        print_json(as_dict(found))
    render_terminal(found, screen)
    print_line(screen, f"report   {report}")
    return 0


def _missing(done, folder, say):
    """The exit code where members are missing, which is said; 0 where all are there."""
    missing = [trial for trial in done.trials if trial.status != "FINISHED"]
    if not missing:
        return 0
    stopped = any(trial.status in ("KILLED", "NOT STARTED") for trial in missing)
    say(
        f"members  {len(missing)} of {len(done.trials)} are missing, so none is scored; see {folder / 'report.html'}"
    )
    say(STOPPED if stopped else f"reason   {missing[0].reason}")
    return 130 if stopped else 1
