"""Predictions and the truth, matched by case id and read onto one grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.cases import AUTO
from segmamba.data.label_sets import GLIOMA, LabelSet, common_set, label_set, readable_as
from segmamba.data.labels import MODALITIES, convention, to_classes
from segmamba.data.patients import patients_by_id
from segmamba.data.volumes import Volume, grid_finding, read_file
from segmamba.errors import UserError
from segmamba.evaluation.segmentations import (
    Truth,
    predicted_files,
    prediction_convention,
    shortened,
    true_segmentations,
)
from segmamba.inference.record import recorded_conventions
from segmamba.pictures.view import CaseView

ERROR_ON, SKIP, EMPTY = MISSING = ("error", "skip", "empty")
"""What becomes of a case without prediction."""


@dataclass(frozen=True)
class Pair:
    """A case's true segmentation and the prediction of it."""

    id: str
    pred: Path | None
    """None where an empty prediction stands for a missing file."""
    truth: Path
    pred_labels: str
    """The name of the prediction's label convention."""
    truth_labels: str
    patient: str
    images: dict[str, Path] = field(default_factory=dict)
    """Modality to file, for pictures; empty where the truth's folder holds no images."""
    channels: dict[str, int] = field(default_factory=dict)
    """Modality to its place on the last axis, for files that hold several modalities."""
    classes: LabelSet = GLIOMA
    """The label set that both are read as, the same for all pairs of a comparison."""
    header: HeaderRules = field(default_factory=HeaderRules)
    """How the headers of its files are read."""

    @property
    def files(self) -> list[Path]:
        """The segmentations that are read."""
        return [path for path in (self.pred, self.truth) if path]


def match(
    predictions: str | Path,
    truth: str | Path,
    labels: str = AUTO,
    prediction_labels: str = AUTO,
    missing: str = ERROR_ON,
    classes: str = AUTO,
    names: Sequence[str] = (),
    header: HeaderRules | None = None,
    patients: str = "",
) -> tuple[list[Pair], list[str]]:
    """Match the predictions of a folder with the truth.

    Args:
        predictions: The folder of predictions.
        truth: A data set in any layout, or a folder of segmentations named like predictions.
        labels: The truth's label convention; "auto" takes each case's own.
        prediction_labels: That of the predictions; "auto" takes it from a dataset.json beside them,
            else the truth's.
        missing: What becomes of a case without prediction: "error", "skip" (it is left out), or
            "empty" (it is scored as an empty prediction).
        classes: The name of the label set that all are read as; "auto" is that of the truth, or
            glioma's where the truth has several or the predictions lack its classes.
        names: How the truth's files are named, as `find_cases` takes it.
        header: How the headers of all files are read; None takes the defaults.
        patients: The setting `data.patients`; empty takes the patients from the names.

    Returns:
        The pairs, sorted by case id, and notes in one line each.

    Raises:
        UserError: Nothing matches, a prediction is missing, or labels lack the wanted classes.
    """
    if missing not in MISSING:
        raise UserError(f"--missing {missing!r}: choose one of {', '.join(MISSING)}")
    files = predicted_files(predictions)
    known = true_segmentations(truth, labels, names)
    common_labels = prediction_convention(Path(predictions), prediction_labels)
    if not files.keys() & known.keys():
        raise UserError(
            f"{predictions}: none of its {len(files)} files is named like a case of {truth} "
            f"({shortened(files)} against {shortened(known)}); "
            "predictions are matched by name, <case-id>.nii.gz"
        )
    notes = []
    if extra := files.keys() - known.keys():
        notes.append(
            f"{len(extra)} files of {predictions} belong to no case of {truth} and are left out: "
            f"{shortened(extra)}"
        )
    if absent := known.keys() - files.keys():
        notes.append(_note_on_absent(predictions, absent, len(known), missing))
    ids = sorted(known if missing == EMPTY else known.keys() & files.keys())
    recorded = {} if prediction_labels != AUTO else recorded_conventions(Path(predictions))
    people = patients_by_id(ids, patients) if patients else {}
    pairs = [
        replace(
            _pair(
                case_id, files.get(case_id), known[case_id], common_labels or recorded.get(case_id)
            ),
            header=header or HeaderRules(),
            patient=people.get(case_id, known[case_id].patient),
        )
        for case_id in ids
    ]
    return _as_one_set(pairs, classes, notes)


def _pair(case_id: str, file: Path | None, truth: Truth, pred_labels: str | None) -> Pair:
    labels = pred_labels or truth.labels
    return Pair(
        case_id,
        file,
        truth.path,
        labels,
        truth.labels,
        truth.patient,
        truth.images,
        truth.channels,
    )


def _note_on_absent(predictions: str | Path, absent: set[str], cases: int, missing: str) -> str:
    """Return the note on cases without prediction. Raises UserError where they are an error."""
    if missing == ERROR_ON:
        raise UserError(
            f"{predictions}: {len(absent)} of {cases} cases have no prediction "
            f"({shortened(absent)}); predict them, or give --missing {SKIP} (score the others) "
            f"or --missing {EMPTY} (score them as empty predictions)"
        )
    fate = "left out" if missing == SKIP else "scored as empty predictions"
    return f"{len(absent)} of {cases} cases have no prediction and are {fate}: {shortened(absent)}"


def _as_one_set(pairs: list[Pair], classes: str, notes: list[str]) -> tuple[list[Pair], list[str]]:
    """Return the pairs with the label set that all are read as, and what a table must say of it."""
    truth = sorted({pair.truth_labels for pair in pairs})
    predicted = sorted({pair.pred_labels for pair in pairs})
    known = [convention(name) for name in sorted({*truth, *predicted})]
    labels = label_set(classes)
    if classes == AUTO:
        labels = common_set(convention(name).labels for name in truth)
        if not all(readable_as(convention(name).labels, labels) for name in predicted):
            labels = GLIOMA
    for one in known:
        one.numbers(labels)  # refused before a file is read
    notes = [*notes, *(note for one in known for note in one.notes(labels))]
    notes.append(f"labels: truth {' + '.join(truth)}, predictions {' + '.join(predicted)}")
    return [replace(pair, classes=labels) for pair in pairs], notes


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read a prediction and its truth.

    Args:
        pair: The case.

    Returns:
        Prediction and truth, class numbers, uint8 (x, y, z) in canonical orientation; and the
        spacing in mm.

    Raises:
        UserError: The grids differ, or a value lies outside its label convention.
    """
    pred, truth, volume = _read_both(pair)
    return pred, truth, volume.spacing_mm


def _read_both(pair: Pair) -> tuple[np.ndarray, np.ndarray, Volume]:
    """Prediction, truth, and the truth's file, which says where they lie."""
    true = read_file(pair.truth, pair.header)
    truth = to_classes(true.array, pair.truth_labels, pair.truth, pair.classes)
    if pair.pred is None:
        return np.zeros_like(truth), truth, true
    predicted = read_file(pair.pred, pair.header)
    if finding := grid_finding(pair.id, predicted.grid(pair.pred), true.grid(pair.truth)):
        raise UserError(finding.text)
    try:
        pred = to_classes(predicted.array, pair.pred_labels, pair.pred, pair.classes)
    except UserError as error:
        raise UserError(str(error).replace("--labels", "--prediction-labels")) from error
    return pred, truth, true


def read_image(pair: Pair, modality: str) -> np.ndarray | None:
    """Read one image of a case.

    Args:
        pair: The case.
        modality: A name from MODALITIES.

    Returns:
        float32 (x, y, z) in canonical orientation; None where there is no such image.
    """
    if modality not in pair.images:
        return None
    dimensions = 4 if pair.channels else 3
    volume = read_file(pair.images[modality], pair.header, dimensions=dimensions).array
    return np.float32(volume[..., pair.channels[modality]] if pair.channels else volume)


def pair_view(pair: Pair, heading: str, modalities: Sequence[str] = MODALITIES) -> CaseView:
    """Read a case as a picture shows it.

    Args:
        pair: The case.
        heading: What the picture calls it.
        modalities: The images that are read, of those that there are on the truth's grid.

    Returns:
        Images, truth and prediction on the grid of the truth's file.

    Raises:
        UserError: As `read_pair`, or an image is damaged.
    """
    pred, truth, volume = _read_both(pair)
    images = {modality: read_image(pair, modality) for modality in modalities}
    on_grid = {m: i for m, i in images.items() if i is not None and i.shape == truth.shape}
    return CaseView(heading, on_grid, volume.affine, pair.classes, truth, pred)
