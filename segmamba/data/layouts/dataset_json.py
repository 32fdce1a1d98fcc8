"""Folders with a dataset.json that says what the channels and the labels are.

    Decathlon (Task01_BrainTumour)   imagesTr/BRATS_001.nii.gz (4-D)
                                     labelsTr/BRATS_001.nii.gz   imagesTs/
    nnU-Net raw                      imagesTr/CASE_0000.nii.gz ... _0003
                                     labelsTr/CASE.nii.gz        imagesTs/

`modality` (Decathlon, nnU-Net 1) or `channel_names` (nnU-Net 2) names the channels; `labels` is
{"1": name} or {name: 1 or [1, 2]}. imagesTs has no labels. macOS's `._*` files are skipped.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
from typing_extensions import TypedDict

from segmamba.data.case import ERROR, INFORMATION, Case, Finding, patient_of
from segmamba.data.image_files import ENDINGS, ending_of, is_image, stem_of
from segmamba.data.labels import CONVENTIONS
from segmamba.data.layouts.contradictions import contradictions
from segmamba.data.layouts.declared_names import (
    channel_order,
    convention_of,
    named_channels,
    numbered_channels,
)
from segmamba.data.layouts.names import part_findings
from segmamba.data.missing import REFUSED
from segmamba.errors import UserError
from segmamba.json_files import read_json

NAME = "dataset.json"
SECTIONS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))
FOLDERS = tuple(folder for section in SECTIONS for folder in section)

Channels = dict[str, str] | list[str] | None
"""The channels' names, by number or in their order."""


class DatasetJson(TypedDict, total=False):
    """What is read of a dataset.json, whoever wrote it."""

    channel_names: Channels
    modality: Channels
    labels: dict[str, str | int | list[int]] | None
    file_ending: str | None
    numTraining: int | None


def roots_of(files: Iterable[Path]) -> list[Path]:
    """Find the folders that hold a dataset.json beside imagesTr.

    Args:
        files: The image files of the data set.

    Returns:
        The folders above those files that are one, sorted.
    """
    candidates = {path.parent.parent for path in files if path.parent.name in FOLDERS}
    return sorted(
        root for root in candidates if (root / NAME).is_file() and (root / "imagesTr").is_dir()
    )


def list_cases(root: Path, labels: str, *, missing: str = REFUSED) -> list[Case]:
    """List the cases of imagesTr and imagesTs.

    Args:
        root: The folder that holds the dataset.json.
        labels: A label convention, or "auto".
        missing: The setting `data.missing`; with zeros, not all modalities need be named.

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.

    Raises:
        UserError: The dataset.json does not say what its channels and labels are.
    """
    content = read_json(root / NAME, DatasetJson)
    named = named_channels(content, root / NAME)
    channels = channel_order(named, root / NAME, missing=missing)
    convention, note = declared_convention(content.get("labels"), labels, root / NAME)
    ending = _declared_ending(content, root / NAME)
    cases: list[Case] = []
    numbered: bool | None = None
    for images, label_folder in SECTIONS:
        volumes, labelled = _volumes(root / images, ending), _volumes(root / label_folder, ending)
        if volumes and numbered is None:
            numbered = _has_file_a_channel(volumes, labelled, channels)
        if numbered:
            known_numbers = set(numbered_channels(named))
            found = _one_file_a_channel(volumes, channels, labelled, convention, root / NAME)
            surplus = _surplus(volumes, known_numbers, root / NAME)
            cases += [
                replace(case, findings=(*case.findings, *surplus.get(case.id, ())))
                for case in found
            ]
        else:
            cases += [
                _four_d(stem, path, channels, labelled.get(stem), convention, len(named))
                for stem, path in volumes.items()
            ]
        if images == "imagesTr":
            known = {case.id for case in cases}
            cases += [
                _without_images(stem, path, root / images, convention)
                for stem, path in labelled.items()
                if stem not in known
            ]
    twins = _twins(root, ending)
    cases = [
        replace(case, findings=(*case.findings, *twins.get(case.id, ())))
        for case in sorted(cases, key=lambda case: case.id)
    ]
    notes = [note, _other_number(content, cases, root)]
    said = tuple(finding for finding in notes if finding)
    return [replace(case, findings=(*case.findings, *said)) for case in cases]


def _other_number(content: DatasetJson, cases: Iterable[Case], root: Path) -> Finding | None:
    """Note a number of training cases that is not the one that the file declares."""
    declared = content.get("numTraining")
    found = sum(bool(case.images) and "imagesTr" in case.files[0].parts for case in cases)
    if not isinstance(declared, int) or declared == found:
        return None
    text = f"{root / NAME} declares {declared} training cases, {root / 'imagesTr'} holds {found}"
    return Finding(INFORMATION, "declared cases", text)


def declared_convention(named: Any, labels: str, path: Path) -> tuple[str, Finding | None]:
    """Decide on the label convention: the stated one, else the one that the file declares.

    It is never guessed.

    Args:
        named: The file's `labels`, or None.
        labels: A label convention, or "auto".
        path: The file, for the messages.

    Returns:
        The convention's name, and a note where the stated one is not the declared one.

    Raises:
        UserError: None is stated, and the file declares no known one.
    """
    values = _by_name(named or {})
    declared = convention_of(values) if values else None
    if labels == "auto":
        if declared:
            return declared.name, None
        raise UserError(
            f"{path}: its labels ({values or 'none'}) are those of no known convention; "
            f"state one with --labels ({', '.join(CONVENTIONS)})"
        )
    if declared and declared.name != labels:
        return labels, Finding(
            INFORMATION,
            "stated labels",
            f"labels are read as {labels}, as stated, although {path.name} declares "
            f"{declared.name}",
        )
    return labels, None


def _by_name(named: dict[str, Any]) -> dict[str, Any]:
    """Map name to value or values, from either direction in which a dataset.json gives labels."""
    if all(re.fullmatch("[0-9]{1,4}", key) for key in named):
        return {str(name): int(value) for value, name in named.items()}
    return named


def _declared_ending(content: Mapping[str, Any], path: Path) -> str:
    """The ending of images and labels that nnU-Net's file_ending gives; empty where it does not."""
    ending = content.get("file_ending") or ""
    if ending and ending not in ENDINGS:
        raise UserError(
            f"{path}: its file_ending is {ending!r}; read are {', '.join(ENDINGS)}: convert the "
            "files"
        )
    return str(ending)


def _volumes(folder: Path, ending: str) -> dict[str, Path]:
    """Map stem to path for the image files in a folder that may be absent."""
    return {stem: paths[0] for stem, paths in _files(folder, ending).items()}


def _files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Map stem to paths, of the declared ending where there are such files."""
    files = sorted(path for path in folder.glob("*") if is_image(path))
    declared = [path for path in files if ending_of(path) == ending]
    by_stem: dict[str, list[Path]] = {}
    for path in declared or files:
        by_stem.setdefault(stem_of(path), []).append(path)
    return by_stem


def _twins(root: Path, ending: str) -> dict[str, list[Finding]]:
    """Map case id to the errors of images that are there twice, as .nii and .nii.gz for example."""
    twins: dict[str, list[Finding]] = {}
    for folder in FOLDERS:
        for stem, paths in _files(root / folder, ending).items():
            match = _numbered(stem) if folder.startswith("images") else None
            case_id = match[1] if match else stem
            part = f"channel {match[2]}" if match else folder
            twins.setdefault(case_id, []).extend(part_findings(case_id, part, paths, ""))
    return twins


def _numbered(stem: str) -> re.Match[str] | None:
    """Match CASE_0000: the case's id and the channel."""
    return re.fullmatch(r"(.+)_(\d{4})", stem)


def _has_file_a_channel(
    volumes: Mapping[str, Path], labelled: Mapping[str, Path], channels: Mapping[str, int]
) -> bool:
    """Tell CASE_0000 ... CASE_0003 from 4-D files, whose ids may end in four digits too.

    The segmentations say which, since they have the cases' ids. Without any, a case with all its
    channels does, and at last the number of dimensions of the first file.
    """
    numbers: dict[str, set[int]] = {}
    for match in filter(None, map(_numbered, volumes)):
        numbers.setdefault(match[1], set()).add(int(match[2]))
    of_channels, of_whole = numbers.keys() & labelled.keys(), volumes.keys() & labelled.keys()
    if of_channels or of_whole:
        return len(of_channels) >= len(of_whole)
    if any(set(channels.values()) <= found for found in numbers.values()):
        return True
    every = all(_numbered(stem) for stem in volumes)
    return every and _dimensions(next(iter(volumes.values()))) != 4


def _dimensions(path: Path) -> int | None:
    """Dimensions of an image, by its header; None where nibabel reads none."""
    try:
        return len(getattr(nibabel.load(path), "shape", ()))
    except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError):
        return None


def _four_d(
    stem: str,
    path: Path,
    channels: dict[str, int],
    label: Path | None,
    convention: str,
    count: int,
) -> Case:
    images = dict.fromkeys(channels, path)
    patient = patient_of(stem)
    return Case(stem, patient, images, label, convention, channels, channel_count=count)


def _one_file_a_channel(
    volumes: Mapping[str, Path],
    channels: Mapping[str, int],
    labelled: Mapping[str, Path],
    convention: str,
    origin: Path,
) -> Iterator[Case]:
    """Group numbered files into cases, with an error for each modality that is missing."""
    groups: dict[str, dict[int, Path]] = {}
    for stem, path in volumes.items():
        if match := _numbered(stem):
            groups.setdefault(match[1], {})[int(match[2])] = path
    for case_id, paths in groups.items():
        images = {
            modality: paths[channel] for modality, channel in channels.items() if channel in paths
        }
        folder = next(iter(paths.values())).parent
        findings = tuple(
            Finding(
                ERROR,
                "missing modality",
                f"{case_id}: modality {modality} is missing, expected "
                f"{folder / f'{case_id}_{channels[modality]:04d}.nii.gz'}; "
                "add the file or remove the case",
            )
            for modality in channels
            if modality not in images
        )
        findings = (*contradictions(case_id, images, None, origin), *findings)
        yield Case(
            case_id,
            patient_of(case_id),
            images,
            labelled.get(case_id),
            convention,
            findings=findings,
        )


def _surplus(
    volumes: Mapping[str, Path], named: set[int], origin: Path
) -> dict[str, list[Finding]]:
    """Map case id to the errors of images whose channel the dataset.json does not name."""
    surplus: dict[str, list[Finding]] = {}
    for stem, path in volumes.items():
        if (match := _numbered(stem)) and int(match[2]) not in named:
            text = (
                f"{match[1]}: {path} is of channel {match[2]}, which {origin} does not name; name "
                "the channel or remove the file"
            )
            surplus.setdefault(match[1], []).append(Finding(ERROR, "surplus channel", text))
    return surplus


def _without_images(stem: str, path: Path, folder: Path, convention: str) -> Case:
    finding = Finding(
        ERROR,
        "missing modality",
        f"{stem}: {path} has no images in {folder}; add them or remove the segmentation",
    )
    return Case(stem, patient_of(stem), {}, path, convention, findings=(finding,))
