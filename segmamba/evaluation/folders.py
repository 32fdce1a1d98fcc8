"""Two folders of segmentations, matched by case id: predictions and the truth.

Predictions are files named <case-id>.nii.gz (or .nii; <case-id>-seg and <case-id>_seg too), as this package, nnU-Net and the challenges
write them. The truth is any data set that `find_cases` reads, or a folder of segmentations named like predictions (nnU-Net's labelsTr).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from segmamba.data.case import stem_of
from segmamba.data.cases import AUTO, MIXED, list_cases
from segmamba.data.labels import convention, to_classes
from segmamba.data.layouts.dataset_json import NAME, declared_convention, read_json
from segmamba.data.layouts.names import LABEL, NAMINGS, convention_name, part_of
from segmamba.data.volumes import FileGrid, grid_finding, read_volume
from segmamba.errors import UserError

ERROR_ON, SKIP, EMPTY = MISSING = ("error", "skip", "empty")
FAULTY = ("duplicate case", "duplicate segmentation")


@dataclass(frozen=True)
class Pair:
    """A case's segmentation and the prediction of it; `pred` is None where an empty one stands for a missing file."""

    id: str
    pred: Path | None
    truth: Path
    pred_labels: str
    truth_labels: str
    images: dict = field(default_factory=dict)
    """Modality to Path, for pictures; empty where the truth's folder holds no images."""
    channels: dict = field(default_factory=dict)

    @property
    def files(self):
        return [path for path in (self.pred, self.truth) if path]


@dataclass(frozen=True)
class Truth:
    """A case's segmentation with its convention, and the images that lie beside it."""

    path: Path
    labels: str
    images: dict = field(default_factory=dict)
    channels: dict = field(default_factory=dict)


def match(predictions, truth, labels=AUTO, prediction_labels=AUTO, missing=ERROR_ON):
    """(list of Pair sorted by case id, notes): every case of the truth, or with missing="skip" those that are predicted.

    Conventions are stated or "auto": the truth's own as `find_cases` tells it, and for predictions that of a dataset.json beside them,
    else the truth's. missing: what becomes of a case without prediction, "error", "skip", or "empty": scored as an empty one.
    """
    if missing not in MISSING:
        raise UserError(f"--missing {missing!r}: choose one of {', '.join(MISSING)}")
    found = predicted_files(predictions)
    known = true_segmentations(truth, labels)
    told, notes = _prediction_convention(Path(predictions), prediction_labels), []
    if not found.keys() & known.keys():
        raise UserError(
            f"{predictions}: none of its {len(found)} files is named like a case of {truth} ({_some(found)} against {_some(known)}); "
            "predictions are matched by name, <case-id>.nii.gz"
        )
    if extra := sorted(found.keys() - known.keys()):
        notes.append(
            f"{len(extra)} files of {predictions} belong to no case of {truth} and are left out: {_some(extra)}"
        )
    if absent := sorted(known.keys() - found.keys()):
        if missing == ERROR_ON:
            raise UserError(
                f"{predictions}: {len(absent)} of {len(known)} cases have no prediction ({_some(absent)}); predict them, or give "
                f"--missing {SKIP} (score the others) or --missing {EMPTY} (score them as empty predictions)"
            )
        fate = "left out" if missing == SKIP else "scored as empty predictions"
        notes.append(
            f"{len(absent)} of {len(known)} cases have no prediction and are {fate}: {_some(absent)}"
        )
    ids = sorted(known if missing == EMPTY else known.keys() & found.keys())
    pairs = [
        Pair(
            i,
            found.get(i),
            known[i].path,
            told or known[i].labels,
            known[i].labels,
            known[i].images,
            known[i].channels,
        )
        for i in ids
    ]
    conventions = [
        {getattr(pair, name) for pair in pairs} for name in ("truth_labels", "pred_labels")
    ]
    for name in sorted(conventions[0] | conventions[1]):
        notes += convention(name).notes
    notes.append(
        f"labels: truth {' + '.join(sorted(conventions[0]))}, predictions {' + '.join(sorted(conventions[1]))}"
    )
    return pairs, notes


def predicted_files(folder):
    """{case id: path} of the segmentations directly in a folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give the one that holds the predictions, <case-id>.nii.gz"
        )
    found = {}
    for path in sorted(
        p
        for p in folder.iterdir()
        if re.search(r"(?<=.)\.nii(\.gz)?$", p.name) and not p.name.startswith(".")
    ):
        case_id = _case_id(path)
        if case_id in found:
            raise UserError(
                f"{folder}: both {found[case_id].name} and {path.name} are predictions of {case_id}; remove one"
            )
        found[case_id] = path
    if not found:
        raise UserError(f"{folder}: holds no prediction; expected files named <case-id>.nii.gz")
    return found


def true_segmentations(source, labels=AUTO):
    """{case id: Truth} of a data set, or of a folder of segmentations."""
    source = Path(source)
    if labels not in (AUTO, MIXED):
        convention(labels)
    try:
        cases = list_cases(source, labels)
    except UserError:
        if not source.is_dir() or not any(
            re.search(r"\.nii(\.gz)?$", path.name) for path in source.iterdir()
        ):
            raise
        return _plain_segmentations(source, labels)
    for finding in (
        finding for case in cases for finding in case.findings if finding.kind in FAULTY
    ):
        raise UserError(finding.text)
    known = {
        case.id: Truth(case.label, case.convention, case.images, case.channels)
        for case in cases
        if case.label
    }
    if not known:
        raise UserError(
            f"{source}: {len(cases)} cases but none has a segmentation; give the folder that holds the true segmentations"
        )
    return known


def _plain_segmentations(folder, labels):
    told = (
        labels
        if labels not in (AUTO, MIXED)
        else _declared(folder, "--labels") or _declared(folder.parent, "--labels")
    )
    return {
        case_id: Truth(path, told or _named_convention(case_id, folder))
        for case_id, path in predicted_files(folder).items()
    }


def _declared(folder, option, labels=AUTO):
    """The convention that the dataset.json in a folder declares; None without one."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        return declared_convention(read_json(path).get("labels"), labels, path)[0]
    except UserError as error:
        raise UserError(str(error).replace("--labels", option)) from error


def _named_convention(case_id, folder):
    """The convention that a case's name implies, as `find_cases` would say."""
    for naming, start in zip(NAMINGS, (r"brats\d{2,4}_", r"brats-"), strict=True):
        if re.match(start, case_id, re.IGNORECASE):
            return convention_name(case_id, naming)
    raise UserError(
        f"{folder}: neither the name of {case_id} nor a dataset.json tells the label convention; state it with --labels"
    )


def _prediction_convention(folder, labels):
    """The convention of all predictions, or None: each case's own."""
    if labels != AUTO:
        return convention(labels).name
    return _declared(folder, "--prediction-labels")


def _case_id(path):
    told = part_of(path)
    return told[0] if told and told[2] == LABEL else stem_of(path)


def _some(ids, most=3):
    ids = sorted(ids)
    return ", ".join(ids[:most]) + (", ..." if len(ids) > most else "")


def read_pair(pair):
    """(prediction, truth, spacing in mm): internal classes, uint8 (x, y, z) in canonical orientation; UserError where the grids differ."""
    values, affine, spacing_mm = read_volume(pair.truth)
    truth = to_classes(values, pair.truth_labels, pair.truth)
    if pair.pred is None:
        return np.zeros_like(truth), truth, spacing_mm
    predicted, pred_affine, _ = read_volume(pair.pred)
    if finding := grid_finding(
        pair.id,
        FileGrid(pair.pred, predicted.shape, pred_affine),
        FileGrid(pair.truth, values.shape, affine),
    ):
        raise UserError(finding.text)
    try:
        return to_classes(predicted, pair.pred_labels, pair.pred), truth, spacing_mm
    except UserError as error:
        raise UserError(str(error).replace("--labels", "--prediction-labels")) from error


def read_image(pair, modality):
    """One image of a pair, float32 (x, y, z) in canonical orientation; None where there is none."""
    if modality not in pair.images:
        return None
    image = nibabel.as_closest_canonical(nibabel.load(pair.images[modality]))
    volume = np.asanyarray(image.dataobj)
    return np.float32(volume[..., pair.channels[modality]] if pair.channels else volume)
