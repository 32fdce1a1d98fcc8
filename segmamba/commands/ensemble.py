"""segmamba ensemble and experiments/ensemble.py: an ensemble and what it is worth.

Imports nothing slow: `--help` answers at once.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer

from segmamba.commands.shared import (
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
    PresetOption,
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
from segmamba.commands.study_result import stopped_code
from segmamba.config import parse_assignments
from segmamba.config import preset as preset_named
from segmamba.errors import UserError
from segmamba.screen import print_line

if TYPE_CHECKING:
    from segmamba.commands.study_file import Study as DeclaredStudy
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.studies.results import Study


class Members(Protocol):
    """Gives the study that trains the members of an ensemble."""

    def __call__(self, size: int, *, diverse: bool) -> "DeclaredStudy":
        """Declare the study.

        Args:
            size: How many members an ensemble has.
            diverse: Whether there is a second ensemble, whose members differ in their settings.
        """


def declared_members() -> tuple[Members, tuple[float, float]]:
    """What search_spaces/ensemble.py declares: the members and the gain that is expected."""
    from search_spaces.ensemble import EXPECTED_GAIN, members

    return members, EXPECTED_GAIN


def ensemble_command(members: Members, expected_gain: tuple[float, float]) -> None:
    """Train, score, report and register an ensemble, and exit.

    The exit code is 0 where all is done, 1 where a member failed, 2 for the user's mistake and 130
    where the user stopped it.

    Args:
        members: Gives the study that trains the members.
        expected_gain: The least and the most Dice, in [0, 1], that the ensemble is expected to
            gain over one member.
    """
    app = new_app()
    app.command()(ensemble_run(lambda: (members, expected_gain)))
    run_app(app)


def ensemble_run(
    declared: Callable[[], tuple[Members, tuple[float, float]]],
) -> Callable[..., None]:
    """Make the function of the command.

    Args:
        declared: Gives, when the command runs, what `ensemble_command` takes.

    Returns:
        The function, whose parameters are the command's options.
    """

    def run(
        data: DataOption = None,
        labels: LabelsOption = "auto",
        orientation: OrientationOption = None,
        names: NamesOption = None,
        preset: PresetOption = "demo",
        kind: Annotated[
            Literal["seeds", "diverse"],
            typer.Option(
                "--members",
                help="seeds: networks that differ in nothing but the seed. diverse: also as many "
                "networks that differ in augmentation and patch size too, and a comparison of "
                "both.",
                metavar="seeds|diverse",
            ),
        ] = "seeds",
        size: Annotated[int, typer.Option(help="Members of an ensemble.", metavar="N")] = 5,
        changes: SetOption = None,
        fresh: FreshOption = False,
        viewer: ViewerOption = True,
        gpus_per_trial: Annotated[
            float | None,
            typer.Option(
                help="GPUs of one training; 0.5 runs two on one GPU. Default: 1 where there is "
                "a GPU, else the CPU.",
                metavar="N",
                show_default=False,
            ),
        ] = None,
        cpus: CpusOption = 0,
        output: OutputOption = RESULTS,
        resume: ResumeOption = False,
        as_json: JsonOption = False,
        list_settings: ListSettingsOption = False,
    ) -> None:
        """Train an ensemble and score it, its members and every subset.

        The ensemble is registered as a model that predicts.
        """
        if list_settings:
            print_settings(preset)
            return
        if size < 2:
            raise UserError(f"--size {size}: an ensemble has at least 2 members")

        settings = parse_assignments(with_orientation(changes, orientation))
        if preset_named(preset).changed(settings).data.split_by_seed:
            raise UserError(
                "data.split_by_seed = True: members that vote together need one division into "
                "sets; leave it out"
            )

        from segmamba.orchestration.engine.options import StudyOptions

        options = StudyOptions(
            data=data,
            labels=labels,
            names=tuple(names or ()),
            preset=preset,
            seeds=1,
            fresh=fresh,
            viewer=viewer,
            gpus_per_trial=gpus_per_trial,
            cpus=cpus,
            output=output,
            resume=resume,
            changes=settings,
        )
        members, expected_gain = declared()
        study = members(size, diverse=kind == "diverse")
        raise typer.Exit(_run(study, options, expected_gain, as_json=as_json))

    return run


def _run(
    study: "DeclaredStudy",
    options: "StudyOptions",
    expected_gain: tuple[float, float],
    *,
    as_json: bool,
) -> int:
    """Train the members, score the ensemble and print its result; return the exit code."""
    from segmamba.orchestration.engine.progress import StudyProgress
    from segmamba.orchestration.study import open_study

    screen = console(stderr=as_json)
    try:
        # The study stays open until the vote is reported and registered.
        with (
            StudyProgress(screen) as progress,
            open_study(study, options, progress) as (trained, folder),
        ):
            if code := _missing(trained, folder, progress.say):
                return code

            from segmamba.orchestration.ensemble_study import finish_ensemble
            from segmamba.reports.ensemble_report import as_dict, render_terminal

            ensemble, report = finish_ensemble(trained, options, expected_gain, progress)
    except KeyboardInterrupt as end:
        return stopped_code(screen, end)
    if as_json:
        print_json(as_dict(ensemble))
    render_terminal(ensemble, screen)
    print_line(screen, f"report   {report}")
    return 0


def _missing(study: "Study", folder: Path, say: Callable[[str], None]) -> int:
    """Say which members are missing; return the exit code, 0 where all are there."""
    missing = [trial for trial in study.trials if trial.status != "FINISHED"]
    if not missing:
        return 0
    stopped = any(trial.status in ("KILLED", "NOT STARTED") for trial in missing)
    say(
        f"members  {len(missing)} of {len(study.trials)} are missing, so none is scored; "
        f"see {folder / 'report.html'}"
    )
    say(STOPPED if stopped else f"reason   {missing[0].reason}")
    return 130 if stopped else 1
