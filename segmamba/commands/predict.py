"""segmamba predict: cases in, segmentations out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmamba.commands.command_line import complete_of, may_become_folder, old_names
from segmamba.commands.shared import (
    CONVENTIONS_HELP,
    READING_SETTINGS,
    RESULTS,
    DeviceOption,
    FlipsOption,
    JsonOption,
    NamesOption,
    OrientationOption,
    SetOption,
    ThemeOption,
    complete_labels,
    console,
    note_on_viewer,
    print_json,
    progress_bar,
    with_orientation,
)
from segmamba.config import PostprocessConfig, load_postprocess, parse_assignments, preset
from segmamba.errors import UserError
from segmamba.screen import print_line

if TYPE_CHECKING:
    from segmamba.config.header import HeaderRules
    from segmamba.data.case import Case
    from segmamba.inference.outputs import Outcome, Outputs
    from segmamba.inference.predictor import Predictor

SHOWN = 5  # cases that a line names
PAPER = PostprocessConfig(min_component_voxels=(100, 100, 100))


@old_names({"--results": "--store"})
def predict(
    input: Annotated[
        Path,
        typer.Option(
            help="Folder of cases in any known layout, or a datalist (.json). Segmentations are "
            "not needed.",
            metavar="DIR",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for CASE.nii.gz, predictions.json and what else is asked for.",
            metavar="DIR",
            callback=may_become_folder,
        ),
    ],
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run's folder, or weights with config.json beside or above them. May be "
            "repeated: the networks then vote.",
            metavar="PATH",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="In place of --checkpoint: a registered model, for example "
            "models:/segmamba-ensemble@champion.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        str,
        typer.Option(
            help=f"Label convention of the written values: {CONVENTIONS_HELP} Where a case's own "
            "would merge classes of the network, the network's is written.",
            metavar="NAME",
            autocompletion=complete_labels,
        ),
    ] = "auto",
    orientation: OrientationOption = None,
    names: NamesOption = None,
    missing: Annotated[
        str | None,
        typer.Option(
            help="A case that lacks one to three modalities: error refuses it, zeros predicts it "
            "with zeros in their place. Default: as the network was trained (data.missing).",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    flips: FlipsOption = False,
    overlap: Annotated[
        float | None,
        typer.Option(
            help="Overlap of windows, in [0, 1). Default: the run's.",
            metavar="SHARE",
            show_default=False,
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Average over these resolutions, e.g. 0.8,1,1.25. Default: the run's.",
            metavar="SCALES",
            show_default=False,
        ),
    ] = None,
    changes: SetOption = None,
    postprocess: Annotated[
        str,
        typer.Option(
            help="auto: the postprocessing.json beside a single checkpoint, where there is one. "
            "none: nothing. paper: remove components under 100 voxels. Or a FILE.json.",
            metavar="NAME",
            autocompletion=complete_of(("auto", "none", "paper")),
        ),
    ] = "auto",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write each channel's probability.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Also write maps of entropy and, for several networks, disagreement.",
        ),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also draw each case with its segmentation.")
    ] = False,
    theme: ThemeOption = "dark",
    html: Annotated[
        bool, typer.Option("--html", help="Also write one page with all cases.")
    ] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip cases whose files are all there.")
    ] = False,
    device: DeviceOption = "auto",
    store: Annotated[
        Path,
        typer.Option(
            help="The --output of the study or run that registered --model: its MLflow store is "
            "read, unless MLFLOW_TRACKING_URI names one.",
            metavar="DIR",
        ),
    ] = RESULTS,
    as_json: JsonOption = False,
) -> None:
    """Segment cases, each on its source's own grid.

    A case that fails is named, and the others are written all the same. The exit code is then 2,
    or 1 where a failure is not explained by the case's files: failures.log has its traceback.
    """
    settings = parse_assignments(with_orientation(changes, orientation)) | (
        {"inference.flips": True} if flips else {}
    )
    if overlap is not None:
        settings |= {"inference.overlap": overlap, "inference.overlap_voxels": 0}
    if scales is not None:
        settings |= parse_assignments([f"inference.scales={scales}"])

    read = {name: value for name, value in settings.items() if name in READING_SETTINGS}
    header = preset("paper").changed(read).data.header_rules

    from segmamba.data.layouts.templates import resolve_names
    from segmamba.inference.outputs import Outputs
    from segmamba.inference.predictor import load_predictor
    from segmamba.pictures.palette import theme_named

    options: dict[str, Any] = {
        "changes": settings,
        "postprocessing": _postprocessing(postprocess),
    }
    around = theme_named(theme)
    if checkpoint and not model:
        members = [str(path) for path in checkpoint]
        predictor = load_predictor(checkpoint, device, **options)
    elif model and not checkpoint:
        members = [model]
        predictor = _registered(model, store, device, options)
    else:
        raise UserError("give either --checkpoint or --model")
    outputs = Outputs(
        output,
        labels=None if labels in ("auto", "mixed") else labels,
        probabilities=probabilities,
        uncertainty=uncertainty,
        overlay=overlay,
        theme=around,
        page=html,
        skip_existing=skip_existing,
    )
    code = run_prediction(
        predictor,
        input,
        labels,
        outputs,
        members,
        templates=resolve_names(names or ()),
        missing=missing,
        header=header,
        as_json=as_json,
    )
    raise typer.Exit(code)


def run_prediction(
    predictor: Predictor,
    source: Path,
    labels: str,
    outputs: Outputs,
    names: Sequence[str],
    *,
    header: HeaderRules | None = None,
    templates: Sequence[str] = (),
    missing: str | None = None,
    as_json: bool,
) -> int:
    """Predict every case of a data set, and print what became of each.

    Args:
        predictor: What predicts.
        source: Folder of cases, or a datalist.
        labels: Label convention of the written values, or auto.
        outputs: What is written, and where.
        names: What predictions.json calls the predictor's members.
        header: How the headers of the files are read; None takes the defaults.
        templates: How the files are named, as `find_cases` takes names.
        missing: What is done with a case that lacks modalities, as `find_cases` takes it; None is
            what the predictor's networks say.
        as_json: Print the content of predictions.json instead of the folder.

    Where there is no failures.log, tracebacks go to stderr.

    Returns:
        The exit code: 1 if a case failed for a reason of ours, 2 if by its files, else 0.
    """
    from segmamba.data.cases import MIXED, list_cases, notes_on_convention, notes_on_unused
    from segmamba.data.content import summarised
    from segmamba.inference.folder import notes_on_values, predict_cases
    from segmamba.inference.outputs import FAILED, SKIPPED
    from segmamba.inference.record import begin_record, warnings_on_missing, write_record

    screen = console(stderr=True)
    labels = MIXED if labels == "auto" else labels
    missing = missing or predictor.missing
    cases = list_cases(source, labels, templates, header, missing=missing)
    print_line(screen, f"{predictor.summary}; {len(cases)} cases")
    for note in (
        *predictor.notes,
        *notes_on_values(cases, predictor.labels, outputs),
        *notes_on_convention(cases),
        *notes_on_unused(source, labels, templates, missing=missing),
    ):
        print_line(screen, f"note: {note}")
    begin_record(predictor, cases, outputs, names)
    outcomes = []
    with progress_bar("predicting cases") as progress:
        for outcome in predict_cases(predictor, cases, outputs):
            outcomes.append(outcome)
            progress(len(outcomes), len(cases))
            if outcome.state == FAILED:
                print_line(screen, f"error: {outcome.error}")
                if outcome.traceback and not outputs.record:
                    print(outcome.traceback, file=sys.stderr)
    for note in summarised([outcome.findings for outcome in outcomes]):
        print_line(screen, f"note: {note}")
    if skipped := [outcome.case for outcome in outcomes if outcome.state == SKIPPED]:
        shown = ", ".join(skipped[:SHOWN]) + (", ..." if len(skipped) > SHOWN else "")
        print_line(
            screen,
            f"note: {len(skipped)} of {len(cases)} cases are skipped, their files are all there: "
            f"{shown}",
        )
    for warning in warnings_on_missing(predictor, outcomes):
        print_line(screen, f"warning: {warning}")
    record = write_record(predictor, outcomes, outputs, names)
    if outputs.page:
        _write_page(predictor, cases, outcomes, outputs)
    if as_json:
        print_json(record)
    else:
        print(outputs.folder)
    if any(outcome.traceback for outcome in outcomes):
        return 1
    return 2 if any(outcome.state == FAILED for outcome in outcomes) else 0


def _write_page(
    predictor: Predictor, cases: Sequence[Case], outcomes: Sequence[Outcome], outputs: Outputs
) -> None:
    """Write predictions.html, and say so where the viewer is left out."""
    from segmamba.evaluation.prediction_page import write_prediction_page

    page = write_prediction_page(
        outputs,
        cases,
        outcomes,
        predictor.summary,
        predictor.labels,
        phantoms_only=all(not member.config.data.source for member in predictor.members),
    )
    note_on_viewer(page)


def _registered(address: str, results: Path, device: str, options: dict[str, Any]) -> Predictor:
    """Load a model from the registry of the store below `results`."""
    import tempfile

    from segmamba.leftovers import folder_beside
    from segmamba.orchestration.tracking.model_folder import load_folder
    from segmamba.orchestration.tracking.registry import fetch_model
    from segmamba.orchestration.tracking.store import store_to_read

    uri = store_to_read(results)
    with folder_beside(Path(tempfile.gettempdir()) / "segmamba-model") as scratch:
        return load_folder(fetch_model(address, uri, scratch), device, **options)


def _postprocessing(name: str) -> PostprocessConfig | None:
    """Read --postprocess; None stands for the file beside the checkpoint."""
    named = {"auto": None, "none": PostprocessConfig(), "paper": PAPER}
    if name in named:
        return named[name]
    if not Path(name).is_file():
        raise UserError(
            f"--postprocess {name}: no such file; choose auto, none, paper or a postprocessing.json"
        )
    return load_postprocess(name)
