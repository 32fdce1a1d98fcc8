"""The command line of every study: `study_command(STUDY)` in a script, `segmamba study FILE`.

Imports nothing slow: `--help` answers at once.
"""

# No `from __future__ import annotations`: typer could not evaluate the annotations inside
# `study_app`, whose help texts come from the study.
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmamba.commands.shared import (
    PRESET_HELP,
    RESULTS,
    STOPPED,
    CpusOption,
    DataOption,
    FreshOption,
    JsonOption,
    LabelsOption,
    ListSettingsOption,
    NamesOption,
    OrientationOption,
    OutputOption,
    ResumeOption,
    SetOption,
    ViewerOption,
    console,
    new_app,
    print_json,
    print_settings,
    run_app,
    with_orientation,
)
from segmamba.commands.study_file import load_study
from segmamba.commands.study_result import print_result, stopped_code
from segmamba.config import parse_assignments
from segmamba.config import preset as preset_named
from segmamba.errors import UserError
from segmamba.screen import print_line

if TYPE_CHECKING:
    from segmamba.commands.study_file import Study
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.studies import StudySpec

PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
"""For click: what follows FILE belongs to the study's own command line."""


def study_command(study: "Study", arguments: Sequence[str] | None = None) -> None:
    """Run a study as a command and exit.

    The exit code is 0 where all is done, 1 where a trial failed, 2 for the user's mistake and 130
    where Ctrl-C stopped the study.

    Args:
        study: A StudySpec, or a function from the preset's Config to one.
        arguments: What stands in for the arguments of the process.
    """
    run_app(study_app(study), arguments)


def study_app(study: "Study") -> typer.Typer:
    """Make the typer app of a study.

    Args:
        study: A StudySpec, or a function from the preset's Config to one.

    Returns:
        The app: one command with every option that the study takes.
    """
    from segmamba.studies.spec import resolve

    spec = resolve(study, preset_named("demo"))
    app = new_app()

    @app.command(help=f"{spec.question}\n\n{spec.hypothesis.claim}")
    def run(
        data: DataOption = None,
        labels: LabelsOption = "auto",
        orientation: OrientationOption = None,
        names: NamesOption = None,
        preset: Annotated[
            str,
            typer.Option(
                help=f"{PRESET_HELP} demo: minutes on a CPU. quick: an hour on one GPU. paper: "
                "300 epochs of 250 steps.",
                metavar="NAME",
            ),
        ] = "demo",
        seeds: Annotated[
            Any,
            typer.Option(
                parser=_seeds,
                help="Training runs of each arm. auto adds seeds until the claim is decided. "
                f"With 1, the verdict is always undecided. Default: {spec.budget.seeds}.",
                metavar="auto|N",
                show_default=False,
            ),
        ] = None,
        max_seeds: Annotated[
            int | None,
            typer.Option(
                help=f"The most seeds that --seeds auto trains. Default: {spec.budget.max_seeds}.",
                metavar="N",
                show_default=False,
            ),
        ] = None,
        folds: Annotated[
            int,
            typer.Option(
                help="Cross-validate: train every arm and seed on each of so many folds. 0 is one "
                "split.",
                metavar="N",
            ),
        ] = 0,
        changes: SetOption = None,
        arms: Annotated[
            list[str] | None,
            typer.Option(help=_arms_help(spec), metavar="ARM", show_default=False),
        ] = None,
        trials: Annotated[
            int | None,
            typer.Option(
                help="How many settings the search tries, or how many members its population "
                f"has. Default: {spec.budget.trials}.",
                metavar="N",
                show_default=False,
                hidden=not spec.space,
            ),
        ] = None,
        scheduler: Annotated[
            str | None,
            typer.Option(help=_scheduler_help(spec), metavar="NAME", show_default=False),
        ] = None,
        fresh: FreshOption = False,
        gpus_per_trial: Annotated[
            str,
            typer.Option(
                help="GPUs of one trial; 0.5 runs two on one GPU. auto measures which number ends "
                "soonest.",
                metavar="N",
            ),
        ] = "auto",
        cpus: CpusOption = 0,
        output: OutputOption = RESULTS,
        resume: ResumeOption = False,
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
                help="Run on the Ray cluster at this address (docs/how-to/cluster.md). Default: on "
                "this machine alone.",
                metavar="ADDRESS",
                show_default=False,
            ),
        ] = None,
        cache: Annotated[
            str | None,
            typer.Option(
                help="Folder of the preprocessed cases; on a cluster each node's own, e.g. "
                "'$TMPDIR/segmamba'. Default: in the output folder.",
                metavar="DIR",
                show_default=False,
            ),
        ] = None,
        viewer: ViewerOption = True,
        as_json: JsonOption = False,
        list_settings: ListSettingsOption = False,
    ) -> None:
        if list_settings:
            print_settings(preset)
            return

        from segmamba.orchestration.engine.options import StudyOptions

        options = StudyOptions(
            data=data,
            labels=labels,
            names=tuple(names or ()),
            preset=preset,
            seeds=seeds,
            max_seeds=max_seeds,
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
            viewer=viewer,
            changes=parse_assignments(with_orientation(changes, orientation)),
        )
        if plan:
            _plan(study, options, as_json=as_json)
            return
        raise typer.Exit(run_declared(study, options, as_json=as_json))

    return app


def _arms_help(spec: "StudySpec") -> str:
    demo = f"in the demo preset {', '.join(spec.demo_arms)}"
    default = f"all, {demo}" if spec.demo_arms else f"all of {', '.join(spec.arms)}"
    return f"Run only this arm; may be repeated; all runs every one. Default: {default}."


def _scheduler_help(spec: "StudySpec") -> str:
    pbt = (
        "pbt: population-based training, whose worst members copy the best and change settings; "
        "it finds a schedule. "
    )
    return (
        "none: every trial trains to its end. asha: stop early the trials that score lowest on "
        f"the validation set. {pbt if spec.space else ''}Default: "
        f"{'asha' if spec.space else 'none, so that all arms train alike'}."
    )


def _seeds(text: str) -> int | str:
    """Read --seeds."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is neither auto nor a number") from None


def _gpus(text: str) -> float | None:
    """Read --gpus-per-trial; None stands for auto."""
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(
            f"--gpus-per-trial {text}: must be auto or a number, "
            "for example 0.5 for two trials on one GPU"
        ) from None


def _plan(study: "Study", options: "StudyOptions", *, as_json: bool) -> None:
    """Measure what the study would cost, and print it."""
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


def run_declared(study: "Study", options: "StudyOptions", *, as_json: bool) -> int:
    """Run the study and print its result; return the exit code."""
    from segmamba.orchestration.engine.progress import StudyProgress
    from segmamba.orchestration.study import run_study

    screen = console(stderr=as_json)
    try:
        with StudyProgress(screen) as progress:
            result, folder = run_study(study, options, progress)
    except KeyboardInterrupt as end:  # before or after the trials, which end in an orderly way
        return stopped_code(screen, end)
    # The live table is gone by now: what follows is the last that the terminal shows.
    ran = (*result.trials, *result.searched)
    stopped = any(trial.status in ("KILLED", "NOT STARTED") for trial in ran)
    print_result(result, folder, screen, progress.say, as_json=as_json, stopped=stopped)
    if stopped:
        ended = sum(trial.status == "FINISHED" for trial in ran)
        print_line(screen, f"trials   {ended} of {len(ran)} are done")
        print_line(screen, STOPPED)
        return 130
    return 1 if any(trial.status == "FAILED" for trial in result.trials) else 0


def study(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            help="A Python file that defines STUDY, as those in search_spaces/ do.", metavar="FILE"
        ),
    ],
) -> None:
    """Run the study that a Python file declares.

    FILE --help shows the options of the study.
    """
    study_command(load_study(file), context.args)
