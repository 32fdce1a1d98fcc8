"""segmamba tune-postprocessing: settings that the validation set chooses for a trained network."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import may_become_file
from segmamba.commands.shared import (
    RESULTS,
    ChallengeOption,
    CheckpointsOption,
    DeviceOption,
    FlipsOption,
    JsonOption,
    NamesOption,
    OrientationOption,
    ReadingSetOption,
    TrainingDataOption,
    TrainingLabelsOption,
    console,
    print_json,
    progress_bar,
    reading_changes,
)
from segmamba.errors import UserError


def tune_postprocessing(
    checkpoint: CheckpointsOption,
    data: TrainingDataOption = None,
    labels: TrainingLabelsOption = None,
    orientation: OrientationOption = None,
    reading: ReadingSetOption = None,
    names: NamesOption = None,
    rule: Annotated[
        str,
        typer.Option(
            help="Whose Dice is to be best: brats-legacy or lesionwise-2023.", metavar="NAME"
        ),
    ] = "brats-legacy",
    challenge: ChallengeOption = "auto",
    flips: FlipsOption = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the settings. Default: postprocessing.json beside the checkpoint.",
            metavar="FILE.json",
            show_default=False,
            callback=may_become_file,
        ),
    ] = None,
    results: Annotated[Path | None, typer.Option(hidden=True)] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Choose post-processing on the validation cases alone.

    Thresholds, smallest components and the smallest ET are stored with the checkpoint.
    """
    read = reading_changes(reading, orientation)
    if results:
        note = "--results is not needed: the training's results are found above --checkpoint"
        print(f"note: {note}", file=sys.stderr)

    import dataclasses

    from segmamba.data.source import source_changes
    from segmamba.data.splits import seeded
    from segmamba.evaluation.rules import RULES
    from segmamba.evaluation.tune import tune, validation_of, votes_on
    from segmamba.evaluation.tune_report import render, write_choice
    from segmamba.inference.checkpoint_files import find_checkpoint
    from segmamba.inference.predictor import load_predictor

    if rule not in RULES:
        raise UserError(f"--rule {rule!r}: choose one of {', '.join(RULES)}")
    if output is None and len(checkpoint) > 1:
        raise UserError("--output: say where the settings of several checkpoints together go")
    predictor = load_predictor(
        checkpoint, device, changes={"inference.flips": True} if flips else None
    )
    changes: dict[str, object] = {"data.labels": labels} if labels else {}
    if data or names:
        changes = source_changes(data, labels or "auto", names or ())
    configs = [member.config.changed(changes | read) for member in predictor.members]
    if any(seeded(other, other.seed) != seeded(configs[0], configs[0].seed) for other in configs):
        raise UserError(
            "--checkpoint: the runs were trained on different data, folds or splits, and one has "
            "trained on what validates another; give runs of one study and one fold"
        )
    config = configs[0]
    with progress_bar("making phantom cases") as progress:
        where = results or _results_of(checkpoint[0])
        cases = validation_of(config, where, lambda label: progress)
    with progress_bar("predicting validation") as progress:
        votes = votes_on(predictor, cases, progress=progress)
    with progress_bar("trying settings") as progress:
        settings, steps = tune(predictor, votes, rule=rule, challenge=challenge, progress=progress)
    path = output or find_checkpoint(checkpoint[0])[0].with_name("postprocessing.json")
    written = write_choice(path, settings, steps, cases, rule)
    if as_json:
        print_json(
            {
                "settings": dataclasses.asdict(settings),
                "steps": [vars(step) for step in steps],
                "validation": [case.id for case in cases],
            }
        )
        return
    render(steps, console())
    for file in written:
        print(file)


def _results_of(checkpoint: Path) -> Path:
    """The folder of results that a checkpoint lies in, known by its phantom; else the default."""
    above = checkpoint.resolve().parents
    return next((folder for folder in above if (folder / "phantom").is_dir()), RESULTS)
