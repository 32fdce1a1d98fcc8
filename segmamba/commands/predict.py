"""segmamba predict: cases in, segmentations out."""

from pathlib import Path
from typing import Annotated

import typer

from segmamba.commands.shared import LABELS_HELP, AsJson, console, print_json, progress_bar
from segmamba.config import PostprocessConfig, load_postprocess, parse_assignments
from segmamba.errors import UserError
from segmamba.screen import print_line

PAPER = PostprocessConfig(min_component_voxels=(100, 100, 100))
POSTPROCESS_HELP = (
    "auto: the postprocessing.json beside a single checkpoint, where there is one; none; paper: components under 100 voxels "
    "removed; or a FILE.json."
)


def predict(
    input: Annotated[
        Path,
        typer.Option(
            help="Folder of cases in any known layout, or a datalist (.json); labels are not needed.",
            metavar="DIR",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for CASE.nii.gz, predictions.json and what else is asked for.",
            metavar="DIR",
        ),
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run's folder or its weights, config.json beside or above; several vote.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="In place of --checkpoint: a registered model, e.g. models:/segmamba-ensemble@champion.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Convention of the written values. " + LABELS_HELP)
    ] = "auto",
    flips: Annotated[
        bool,
        typer.Option("--flips", "--tta", help="Average over 8 mirror images; 8 times the work."),
    ] = False,
    overlap: Annotated[
        float | None,
        typer.Option(help="Overlap of windows, in [0, 1). Default: the run's.", show_default=False),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Average over these resolutions, e.g. 0.8,1,1.25. Default: the run's.",
            show_default=False,
        ),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            help="Change another setting of the runs, e.g. inference.window_batch=2; may be repeated.",
            show_default=False,
        ),
    ] = None,
    postprocess: Annotated[str, typer.Option(help=POSTPROCESS_HELP)] = "auto",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write each channel's probability.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write maps of entropy and, for several members, disagreement.",
        ),
    ] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw each case.")] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also write one page with all cases.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave cases whose files are all there.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    results: Annotated[
        Path,
        typer.Option(
            help="Folder whose MLflow store holds --model, unless MLFLOW_TRACKING_URI names one."
        ),
    ] = Path("Results"),
    as_json: AsJson = False,
):
    """Segment cases; each result lies on its source's own grid. Exit code 2 if a case failed; the others are written all the same."""
    changes = parse_assignments(set or []) | ({"inference.flips": True} if flips else {})
    changes |= (
        {} if overlap is None else {"inference.overlap": overlap, "inference.overlap_voxels": 0}
    )
    changes |= {} if scales is None else parse_assignments([f"inference.scales={scales}"])

    from segmamba.inference.outputs import Outputs
    from segmamba.inference.predictor import load_predictor

    if bool(checkpoint) == bool(model):
        raise UserError("give either --checkpoint or --model")
    settings = {"changes": changes, "postprocessing": _postprocessing(postprocess)}
    predictor = (
        _registered(model, results, device, settings)
        if model
        else load_predictor(checkpoint, device, **settings)
    )
    outputs = Outputs(
        output,
        None if labels in ("auto", "mixed") else labels,
        probabilities=probabilities,
        uncertainty=uncertainty,
        overlay=overlay,
        page=html,
        skip_existing=skip_existing,
    )
    raise typer.Exit(
        run_prediction(
            predictor,
            input,
            labels,
            outputs,
            [model] if model else [str(path) for path in checkpoint],
            as_json,
        )
    )


def run_prediction(predictor, source, labels, outputs, names, as_json):
    """Predict every case of `source` and tell of it; the exit code. names: what to call the predictor's members in predictions.json."""
    from segmamba.data.cases import MIXED, list_cases, notes_on_labels
    from segmamba.inference.folder import predict_cases, write_record
    from segmamba.inference.outputs import FAILED

    told = console(stderr=True)
    cases = list_cases(source, MIXED if labels == "auto" else labels)
    print_line(told, f"{predictor.summary}; {len(cases)} cases")
    for note in notes_on_labels(cases):
        print_line(told, f"note: {note}")
    outcomes = []
    with progress_bar("predicting cases") as progress:
        for outcome in predict_cases(predictor, cases, outputs):
            outcomes.append(outcome)
            progress(len(outcomes), len(cases))
            if outcome.state == FAILED:
                print_line(told, f"error: {outcome.error}")
    record = write_record(predictor, outcomes, outputs, names)
    if as_json:
        print_json(record)
    else:
        print(outputs.folder)
    return 2 if any(outcome.state == FAILED for outcome in outcomes) else 0


def _registered(address, results, device, settings):
    """The Predictor of a model in the registry."""
    import tempfile

    from segmamba.orchestration.tracking.model_folder import load_folder
    from segmamba.orchestration.tracking.registry import fetch_model
    from segmamba.orchestration.tracking.store import store_uri

    with tempfile.TemporaryDirectory() as scratch:
        return load_folder(fetch_model(address, store_uri(results), scratch), device, **settings)


def _postprocessing(name):
    """The PostprocessConfig that --postprocess names; None for what lies beside the checkpoint."""
    named = {"auto": None, "none": PostprocessConfig(), "paper": PAPER}
    if name in named:
        return named[name]
    if not Path(name).is_file():
        raise UserError(
            f"--postprocess {name}: no such file; choose auto, none, paper or a postprocessing.json"
        )
    return load_postprocess(name)
