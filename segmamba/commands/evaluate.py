"""evaluate, compare: predictions against the truth, from files."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import LABELS_HELP, AsJson, Labels, console, print_json, progress_bar

Predictions = Annotated[
    Path,
    typer.Option(help="Folder of predictions, <case-id>.nii.gz; nnU-Net's too.", metavar="DIR"),
]
TruthFolder = Annotated[
    Path,
    typer.Option(
        "--truth",
        help="The data set, in any layout, or a folder of segmentations named like the predictions.",
        metavar="DIR",
    ),
]
Rule = Annotated[str, typer.Option(help="brats-legacy, lesionwise-2023 or both.")]
ChallengeName = Annotated[
    str,
    typer.Option(
        "--challenge",
        help="Whose lesion-wise parameters: GLI, SSA, PED, MEN, MET; auto goes by case ids.",
    ),
]
PredictionLabels = Annotated[
    str,
    typer.Option(
        help="Label convention of the predictions; auto takes it from a dataset.json beside them, else the "
        "truth's."
    ),
]
Missing = Annotated[
    str,
    typer.Option(
        help="A case without prediction: error, skip (it is left out), or empty (scored as an empty prediction)."
    ),
]


def evaluate(
    predictions: Predictions,
    truth: TruthFolder,
    rule: Rule = "both",
    challenge: ChallengeName = "auto",
    labels: Labels = "auto",
    prediction_labels: PredictionLabels = "auto",
    missing: Missing = "error",
    output: Annotated[
        Path,
        typer.Option(help="Folder for cases.csv, summary.csv, evaluation.json and the pictures."),
    ] = Path("Results/evaluation"),
    as_json: AsJson = False,
):
    """Score predictions: Dice, HD95, sensitivity, specificity, volume, per case and region, under named rules."""
    from segmamba.evaluation.evaluate import evaluate, write_evaluation
    from segmamba.evaluation.pictures import write_pictures
    from segmamba.evaluation.summary import render

    with progress_bar("scoring cases") as progress:
        found = evaluate(
            predictions,
            truth,
            rule=rule,
            challenge=challenge,
            labels=labels,
            prediction_labels=prediction_labels,
            missing=missing,
            progress=progress,
        )
    written = [*write_evaluation(output, found), *write_pictures(output, found)]
    if as_json:
        print_json(found.about | found.summary)
        return
    render(found, console())
    for path in written:
        print(path)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of predictions.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same cases.", metavar="B")],
    truth: TruthFolder,
    rule: Rule = "both",
    challenge: ChallengeName = "auto",
    margin: Annotated[
        float, typer.Option(help="Smallest difference of Dice (0 to 1) that matters.")
    ] = 0.005,
    labels: Labels = "auto",
    labels_a: PredictionLabels = "auto",
    labels_b: PredictionLabels = "auto",
    missing: Missing = "error",
    output: Annotated[
        Path, typer.Option(help="Folder for differences.csv, comparison.json and the picture.")
    ] = Path("Results/comparison"),
    as_json: AsJson = False,
):
    """Compare two folders of predictions case by case: which of the two models is better, with the interval over patients."""
    from segmamba.evaluation.compare import as_json as told
    from segmamba.evaluation.compare import compare, render, write_comparison
    from segmamba.evaluation.pictures import draw_differences

    with progress_bar("scoring cases") as progress:
        found = compare(
            a,
            b,
            truth,
            margin=margin,
            labels_a=labels_a,
            labels_b=labels_b,
            rule=rule,
            challenge=challenge,
            labels=labels,
            missing=missing,
            progress=progress,
        )
    written = [
        *write_comparison(output, found),
        draw_differences(found, output / "differences.png"),
    ]
    if as_json:
        print_json(told(found))
        return
    render(found, console())
    for path in written:
        print(path)


def tune_postprocessing(
    checkpoint: Annotated[
        list[Path],
        typer.Option(
            help="A run's folder or its weights, config.json beside or above; several vote.",
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
    rule: Annotated[
        str, typer.Option(help="Whose Dice is to be best: brats-legacy or lesionwise-2023.")
    ] = "brats-legacy",
    challenge: ChallengeName = "auto",
    flips: Annotated[
        bool,
        typer.Option(
            "--flips", "--tta", help="Tune for predictions that average over 8 mirror images."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the settings go. Default: postprocessing.json beside the checkpoint.",
            metavar="FILE.json",
            show_default=False,
        ),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder of the study's results, where an embedded phantom lies.")
    ] = Path("Results"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: AsJson = False,
):
    """Choose thresholds and post-processing on the validation cases alone, and store them with the checkpoint."""
    import dataclasses

    from segmamba.data.source import source_changes
    from segmamba.errors import UserError
    from segmamba.evaluation.rules import RULES
    from segmamba.evaluation.tune import tune, validation_of, votes_on, write_choice
    from segmamba.inference.checkpoint_files import find_checkpoint
    from segmamba.inference.predictor import load_predictor

    if rule not in RULES:
        raise UserError(f"--rule {rule!r}: choose one of {', '.join(RULES)}")
    if output is None and len(checkpoint) > 1:
        raise UserError("--output: say where the settings of several checkpoints together go")
    predictor = load_predictor(
        checkpoint, device, changes={"inference.flips": True} if flips else None
    )
    config = predictor.members[0].config
    chosen_data = (
        source_changes(data, labels or "auto")
        if data
        else {"data.labels": labels}
        if labels
        else {}
    )
    with progress_bar("making phantom cases") as progress:
        cases = validation_of(config.changed(chosen_data), results, lambda label: progress)
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
    from segmamba.evaluation.tune import render as render_steps

    render_steps(steps, console())
    for file in written:
        print(file)
