"""evaluate, compare: predictions against the truth, from files."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.command_line import may_become_folder
from segmamba.commands.shared import (
    RESULTS,
    ChallengeOption,
    ClassesOption,
    JsonOption,
    LabelsOption,
    NamesOption,
    OrientationOption,
    PatientsOption,
    ReadingSetOption,
    RuleOption,
    ThemeOption,
    console,
    note_on_viewer,
    print_json,
    progress_bar,
    reading,
)
from segmamba.config import preset

TruthOption = Annotated[
    Path,
    typer.Option(
        "--truth",
        help="The data set, in any layout, or a folder of segmentations named like the "
        "predictions.",
        metavar="DIR",
    ),
]
PREDICTION_LABELS_HELP = (
    "auto reads it from a dataset.json beside the predictions, and takes the truth's where there "
    "is none."
)
MissingOption = Annotated[
    str,
    typer.Option(
        "--missing",
        help="What a case without a prediction is: error, skip (left out) or empty (scored as an "
        "empty prediction).",
        metavar="NAME",
    ),
]


def evaluate(
    predictions: Annotated[
        Path,
        typer.Option(
            help="Folder of predictions named CASE.nii.gz, nnU-Net's included.", metavar="DIR"
        ),
    ],
    truth: TruthOption,
    rule: RuleOption = "both",
    challenge: ChallengeOption = "auto",
    labels: LabelsOption = "auto",
    orientation: OrientationOption = None,
    changes: ReadingSetOption = None,
    names: NamesOption = None,
    patients: PatientsOption = "",
    prediction_labels: Annotated[
        str,
        typer.Option(
            help=f"Label convention of the predictions. {PREDICTION_LABELS_HELP}", metavar="NAME"
        ),
    ] = "auto",
    missing: MissingOption = "error",
    classes: ClassesOption = "auto",
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for cases.csv, summary.csv, evaluation.json and the pictures.",
            metavar="DIR",
            callback=may_become_folder,
        ),
    ] = RESULTS / "evaluation",
    html: Annotated[
        bool,
        typer.Option(
            "--html", help="Also write evaluation.html: tables to sort, and cases to look at."
        ),
    ] = False,
    theme: ThemeOption = "dark",
    as_json: JsonOption = False,
) -> None:
    """Score a folder of predictions under named rules.

    The scores are Dice, HD95, sensitivity, specificity and volume, per case and region.
    """
    preset("paper").changed({"data.patients": patients})

    from segmamba.data.layouts.templates import resolve_names
    from segmamba.evaluation.evaluate import evaluate, write_evaluation
    from segmamba.evaluation.pictures import write_pictures
    from segmamba.evaluation.summary import render
    from segmamba.pictures.palette import theme_named

    around = theme_named(theme)
    with progress_bar("scoring cases") as progress:
        evaluation = evaluate(
            predictions,
            truth,
            rule=rule,
            challenge=challenge,
            labels=labels,
            prediction_labels=prediction_labels,
            missing=missing,
            classes=classes,
            header=reading(changes, orientation).header_rules,
            names=resolve_names(names or ()),
            patients=patients,
            progress=progress,
        )
    written = [
        *write_evaluation(output, evaluation),
        *write_pictures(output, evaluation, around),
    ]
    if html:
        from segmamba.evaluation.page import write_page

        written.append(write_page(output, evaluation))
        note_on_viewer(written[-1])
    if as_json:
        print_json(evaluation.about | evaluation.summary)
        return
    render(evaluation, console())
    for path in written:
        print(path)


def compare(
    a: Annotated[Path, typer.Argument(help="Folder of predictions.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="Another one, of the same cases.", metavar="B")],
    truth: TruthOption,
    rule: RuleOption = "both",
    challenge: ChallengeOption = "auto",
    margin: Annotated[
        float,
        typer.Option(
            help="Smallest difference in Dice that matters; 0.005 is half a Dice point.",
            metavar="DICE",
        ),
    ] = 0.005,
    labels: LabelsOption = "auto",
    orientation: OrientationOption = None,
    changes: ReadingSetOption = None,
    names: NamesOption = None,
    patients: PatientsOption = "",
    labels_a: Annotated[
        str,
        typer.Option(help=f"Label convention of A. {PREDICTION_LABELS_HELP}", metavar="NAME"),
    ] = "auto",
    labels_b: Annotated[
        str, typer.Option(help="Label convention of B, as --labels-a.", metavar="NAME")
    ] = "auto",
    missing: MissingOption = "error",
    classes: ClassesOption = "auto",
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for differences.csv, comparison.json and the picture.",
            metavar="DIR",
            callback=may_become_folder,
        ),
    ] = RESULTS / "comparison",
    as_json: JsonOption = False,
) -> None:
    """Compare two folders of predictions case by case.

    The answer says which of the two models is better, with the interval over patients.
    """
    preset("paper").changed({"data.patients": patients})

    from segmamba.data.layouts.templates import resolve_names
    from segmamba.evaluation.compare import as_json as as_dict
    from segmamba.evaluation.compare import compare, render, write_comparison
    from segmamba.evaluation.pictures import draw_differences

    with progress_bar("scoring cases") as progress:
        comparison = compare(
            a,
            b,
            truth,
            margin=margin,
            labels_a=labels_a,
            labels_b=labels_b,
            rule=rule,
            challenge=challenge,
            labels=labels,
            header=reading(changes, orientation).header_rules,
            missing=missing,
            classes=classes,
            names=resolve_names(names or ()),
            patients=patients,
            progress=progress,
        )
    written = [
        *write_comparison(output, comparison),
        draw_differences(comparison, output / "differences.png"),
    ]
    if as_json:
        print_json(as_dict(comparison))
        return
    render(comparison, console())
    for path in written:
        print(path)
