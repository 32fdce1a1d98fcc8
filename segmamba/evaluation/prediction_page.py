"""predictions.html: every predicted case on one page that needs no other file.

Cases are read again from the files, so that the page shows what was written, and cases of an
earlier prediction as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segmamba.data.case import Case
from segmamba.data.label_sets import MEAN, LabelSet, readable_as
from segmamba.data.labels import convention, to_classes
from segmamba.data.volumes import FileGrid, read_file
from segmamba.errors import UserError
from segmamba.evaluation.dice import dice
from segmamba.files import write_text
from segmamba.inference.native_view import native_view, true_classes
from segmamba.inference.outputs import DONE, FAILED, SKIPPED, Outcome, Outputs, writing_to
from segmamba.pictures.case_rows import CaseRow, Cell, cell
from segmamba.pictures.encode import ViewerCase, encode_case
from segmamba.pictures.pages import template
from segmamba.pictures.palette import REGION_COLOURS
from segmamba.pictures.viewer import by_interest, fitting, viewer_section

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "predictions.html"
THUMBNAIL_BYTES = 8_000_000
"""What the pictures of a page may take, as base64; the viewer has the rest."""


def write_prediction_page(
    outputs: Outputs,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    summary: str,
    labels: LabelSet,
    *,
    phantoms_only: bool,
) -> Path:
    """Write the page beside the predictions.

    Args:
        outputs: What was written, and where.
        cases: The cases.
        outcomes: What became of each of them.
        summary: Which networks predicted, and how, in a few words.
        labels: The label set of the predictions.
        phantoms_only: Whether the networks were trained on the embedded phantoms.

    Returns:
        The page.

    Raises:
        UserError: The page cannot be written.
    """
    done, failed, skipped = (
        [outcome for outcome in outcomes if outcome.state == state]
        for state in (DONE, FAILED, SKIPPED)
    )
    by_id = {case.id: case for case in cases}
    there = {outcome.case: outcome for outcome in (*done, *skipped)}
    scores = _scores(outputs, by_id, there, labels)
    shown, size = _shown(done)
    mean = {case: values[MEAN] for case, values in scores.items()}
    order = [*by_interest(mean), *(case for case in there if case not in mean)]
    viewed = fitting(_viewer_cases(outputs, by_id, there, labels, scores, order), size)
    held = {case.id for case in viewed}
    rows = [_row(outcome, scores.get(case), viewed=case in held) for case, outcome in there.items()]
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    rows = [_completed(row, columns) for row in rows]
    if scores:
        rows.sort(key=lambda row: (row.case not in mean, mean.get(row.case, 0), row.case))
    text = template("predictions.html.j2", TEMPLATES).render(
        done=len(done),
        failed=failed,
        skipped=skipped,
        summary=summary,
        phantoms_only=phantoms_only,
        viewer=viewer_section(viewed, len(there)),
        columns=columns,
        rows=rows,
        sorted="Dice" if scores else "",
        with_truth=bool(scores),
        with_entropy=any(outcome.mean_entropy is not None for outcome in done),
        shown=shown,
        not_shown=sum(bool(outcome.thumbnail) for outcome in done) - len(shown),
        colours={region: REGION_COLOURS[region] for region in labels.outlined},
    )
    with writing_to(outputs):
        return write_text(outputs.folder / PAGE, text)


def _shown(done: Sequence[Outcome]) -> tuple[list[Outcome], int]:
    """The outcomes whose pictures fit into the page, and what these take."""
    shown: list[Outcome] = []
    size = 0
    for outcome in done:
        taken = len(outcome.thumbnail) * 4 // 3
        if taken and size + taken <= THUMBNAIL_BYTES:
            shown.append(outcome)
            size += taken
    return shown, size


def _predicted(
    outputs: Outputs, case: Case, outcome: Outcome, labels: LabelSet
) -> tuple[np.ndarray, FileGrid]:
    """Class numbers, uint8 (x, y, z), of a case's file, and where they lie.

    They are of the file's own set where it lacks some of the network's classes.
    """
    path = outputs.files(case.id, 1)["labels"]
    volume = read_file(path, case.header)
    classes = to_classes(volume.array, outcome.labels, path, _set_of(outcome, labels))
    return classes, volume.grid(path)


def _set_of(outcome: Outcome, labels: LabelSet) -> LabelSet:
    own = convention(outcome.labels).labels
    return labels if readable_as(own, labels) else own


def _scores(
    outputs: Outputs,
    cases: Mapping[str, Case],
    outcomes: Mapping[str, Outcome],
    labels: LabelSet,
) -> dict[str, dict[str, float]]:
    """{case: Dice by region} of the cases that have a sound segmentation on the images' grid."""
    scores = {}
    for name, outcome in outcomes.items():
        if cases[name].label is None:
            continue
        read_as = _set_of(outcome, labels)
        predicted, grid = _predicted(outputs, cases[name], outcome, labels)
        truth = true_classes(cases[name], read_as, grid)
        if truth is not None:
            scores[name] = dice(predicted, truth, read_as)
    return scores


def _viewer_cases(
    outputs: Outputs,
    cases: Mapping[str, Case],
    outcomes: Mapping[str, Outcome],
    labels: LabelSet,
    scores: Mapping[str, Mapping[str, float]],
    order: Sequence[str],
) -> Iterator[ViewerCase]:
    for name in order:
        case, outcome = cases[name], outcomes[name]
        predicted, _ = _predicted(outputs, case, outcome, labels)
        try:
            view = native_view(case, predicted, _set_of(outcome, labels))
        except UserError:
            continue  # its images are gone since it was predicted
        if name not in scores:
            view = replace(view, truth=None)
        entropy = outputs.files(name, 1).get("entropy")
        yield encode_case(
            view,
            uncertainty=read_file(entropy, case.header).array if entropy else None,
            dice={"prediction": scores[name][MEAN]} if name in scores else None,
        )


def _row(outcome: Outcome, scores: Mapping[str, float] | None, *, viewed: bool) -> CaseRow:
    cells: dict[str, Cell] = {}
    for name, value in (scores or {}).items():
        cells["Dice" if name == MEAN else f"Dice {name}"] = cell(value, 1, 100)
    for region, ml in outcome.volumes_ml.items():
        cells[f"{region} mL"] = cell(ml, 1)
    if outcome.mean_entropy is not None:
        cells["mean entropy"] = cell(outcome.mean_entropy, 2)
    return CaseRow(outcome.case, viewed, cells)


def _completed(row: CaseRow, columns: Sequence[str]) -> CaseRow:
    """The row with a dash where it lacks a column."""
    return replace(row, cells={column: row.cells.get(column, cell(None, 0)) for column in columns})
