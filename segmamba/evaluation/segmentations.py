"""The segmentations that a folder holds: predictions by case id, and the truth with its labels.

Predictions are files named <case-id>.nii.gz (or .nii; <case-id>-seg and <case-id>_seg too), as this
package, nnU-Net and the challenges write them. The truth is any data set that `find_cases` reads,
or a folder of segmentations named like predictions (nnU-Net's labelsTr).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from segmamba.data.case import patient_of
from segmamba.data.case_ids import id_fault
from segmamba.data.cases import AUTO, MIXED, list_cases
from segmamba.data.image_files import is_image, stem_of
from segmamba.data.labels import CONVENTIONS, convention
from segmamba.data.layouts.dataset_json import NAME, DatasetJson, declared_convention
from segmamba.data.layouts.namings import LABEL, convention_name, naming_of_id, part_of
from segmamba.errors import UserError
from segmamba.json_files import read_json

RECORD = "predictions.json"
"""What `segmamba predict` writes beside its segmentations."""
FAULTY = (
    "case id",
    "duplicate case",
    "duplicate segmentation",
    "file used twice",
    "unknown labels",
)
"""Findings of a data set for which no case can be scored."""


class _Row(TypedDict):
    case: str
    labels: NotRequired[str]


class _Record(TypedDict):
    """What is read of a predictions.json."""

    cases: NotRequired[list[_Row]]


@dataclass(frozen=True)
class Truth:
    """A case's true segmentation, and the images beside it."""

    path: Path
    labels: str
    """The name of its label convention."""
    patient: str
    images: dict[str, Path] = field(default_factory=dict)
    """Modality to file; empty where the folder holds no images."""
    channels: dict[str, int] = field(default_factory=dict)
    """Modality to its place on the last axis, for files that hold several modalities."""


def predicted_files(folder: str | Path) -> dict[str, Path]:
    """Find the segmentations directly in a folder.

    Args:
        folder: The folder of predictions.

    Returns:
        {case id: file}.

    Raises:
        UserError: There is no such folder, it holds no prediction, or two of one case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the one that holds the predictions, <case-id>.nii.gz"
        )
    files: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if is_image(path)):
        case_id = _case_id(path)
        if case_id in files:
            raise UserError(
                f"{folder}: both {files[case_id].name} and {path.name} are predictions of "
                f"{case_id}; remove one"
            )
        files[case_id] = path
    if not files:
        raise UserError(f"{folder}: holds no prediction; expected files named <case-id>.nii.gz")
    return files


def true_segmentations(
    source: str | Path, labels: str = AUTO, names: Sequence[str] = ()
) -> dict[str, Truth]:
    """Find the true segmentations of a data set, or of a folder of segmentations.

    Args:
        source: The data set, or the folder.
        labels: The name of a label convention; "auto" takes each case's own.
        names: How the files are named, as `find_cases` takes it.

    Returns:
        {case id: Truth}.

    Raises:
        UserError: There are no segmentations, or the data set has duplicates.
    """
    source = Path(source)
    if labels not in (AUTO, MIXED):
        convention(labels)
    try:
        cases = list_cases(source, labels, names)
    except UserError:
        if names or not source.is_dir() or not any(is_image(path) for path in source.iterdir()):
            raise
        return _plain_segmentations(source, labels)
    for finding in (
        finding for case in cases for finding in case.findings if finding.kind in FAULTY
    ):
        raise UserError(finding.text)
    known = {
        case.id: Truth(case.label, case.convention, case.patient, case.images, case.channels)
        for case in cases
        if case.label
    }
    if not known:
        raise UserError(
            f"{source}: {len(cases)} cases but none has a segmentation; "
            "give the folder that holds the true segmentations"
        )
    return known


def prediction_convention(folder: Path, labels: str) -> str | None:
    """Return the name of the label convention of all predictions in a folder.

    Args:
        folder: The folder of predictions.
        labels: The name of a convention; "auto" takes that of a dataset.json in the folder.

    Returns:
        The name; None where each prediction has the convention of its case.

    Raises:
        UserError: There is no such convention, or the dataset.json declares none that is known.
    """
    if labels != AUTO:
        return convention(labels).name
    return _declared(folder, "--prediction-labels")


def recorded_conventions(folder: Path) -> dict[str, str]:
    """Return the label convention of each prediction that predictions.json in a folder names."""
    path = folder / RECORD
    rows = read_json(path, _Record).get("cases", []) if path.is_file() else []
    return {row["case"]: row["labels"] for row in rows if row.get("labels") in CONVENTIONS}


def shortened(ids: Iterable[str], most: int = 3) -> str:
    """List the first few case ids for a message."""
    ids = sorted(ids)
    return ", ".join(ids[:most]) + (", ..." if len(ids) > most else "")


def _plain_segmentations(folder: Path, labels: str) -> dict[str, Truth]:
    """Return the Truth of each segmentation in a folder without images."""
    common = (
        labels
        if labels not in (AUTO, MIXED)
        else _declared(folder, "--labels") or _declared(folder.parent, "--labels")
    )
    files = predicted_files(folder)
    for case_id, path in files.items():
        if fault := id_fault(case_id):
            raise UserError(f"{folder}: the case id {case_id!a} {fault}; rename {path.name!a}")
    return {
        case_id: Truth(path, common or _convention_of_name(case_id, folder), patient_of(case_id))
        for case_id, path in files.items()
    }


def _declared(folder: Path, option: str) -> str | None:
    """Return the convention that the dataset.json in a folder declares; None without one.

    `option` is what an error message calls the command line's option.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return declared_convention(read_json(path, DatasetJson).get("labels"), AUTO, path)[0]
    except UserError as error:
        raise UserError(str(error).replace("--labels", option)) from error


def _convention_of_name(case_id: str, folder: Path) -> str:
    """Return the convention that a case's name implies, as `find_cases` would say."""
    naming = naming_of_id(case_id)
    if naming and (name := convention_name(case_id, naming)):
        return name
    raise UserError(
        f"{folder}: neither the name of {case_id} nor a dataset.json tells the label convention; "
        "state it with --labels"
    )


def _case_id(path: Path) -> str:
    part = part_of(path)
    return part[0] if part and part[2] == LABEL else stem_of(path)
