"""Folders with a dataset.json that says what the channels and the labels are.

    Decathlon (Task01_BrainTumour)   imagesTr/BRATS_001.nii.gz (4-D)
                                     labelsTr/BRATS_001.nii.gz   imagesTs/
    nnU-Net raw                      imagesTr/CASE_0000.nii.gz ... _0003
                                     labelsTr/CASE.nii.gz        imagesTs/

`modality` (Decathlon, nnU-Net 1) or `channel_names` (nnU-Net 2) names the channels; `labels` is
{"1": name} or {name: 1 or [1, 2]}. imagesTs has no labels. macOS's `._*` files are skipped.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from segmamba.data.case import ERROR, INFORMATION, Case, Finding, patient_of, stem_of
from segmamba.data.labels import CONVENTIONS, MODALITIES
from segmamba.data.layouts.declared_names import convention_of, modality_of
from segmamba.errors import UserError
from segmamba.json_files import read_json

NAME = "dataset.json"

Channels = dict[str, str] | list[str] | None
"""The channels' names, by number or in their order."""


class DatasetJson(TypedDict, total=False):
    """What is read of a dataset.json, whoever wrote it."""

    channel_names: Channels
    modality: Channels
    labels: dict[str, str | int | list[int]] | None


def root_of(folder: Path) -> Path | None:
    """Find the folder that holds a dataset.json beside imagesTr.

    Args:
        folder: Where to look, with its subfolders.

    Returns:
        `folder` or the only subfolder that is one, or None.
    """
    candidates = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    roots = [
        path for path in candidates if (path / NAME).is_file() and (path / "imagesTr").is_dir()
    ]
    return roots[0] if roots[:1] == [folder] or len(roots) == 1 else None


def list_cases(root: Path, labels: str) -> list[Case]:
    """List the cases of imagesTr and imagesTs.

    Args:
        root: The folder that holds the dataset.json.
        labels: A label convention, or "auto".

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.

    Raises:
        UserError: The dataset.json does not say what its channels and labels are.
    """
    content = read_json(root / NAME, DatasetJson)
    channels = channel_order(content.get("channel_names", content.get("modality")), root / NAME)
    convention, note = declared_convention(content.get("labels"), labels, root / NAME)
    cases: list[Case] = []
    for images, label_folder in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        volumes, labelled = _volumes(root / images), _volumes(root / label_folder)
        if volumes and all(_numbered(stem) for stem in volumes):
            cases += _one_file_a_channel(volumes, channels, labelled, convention)
        else:
            cases += [
                _four_d(stem, path, channels, labelled.get(stem), convention)
                for stem, path in volumes.items()
            ]
        if images == "imagesTr":
            known = {case.id for case in cases}
            cases += [
                _without_images(stem, path, root / images, convention)
                for stem, path in labelled.items()
                if stem not in known
            ]
    cases.sort(key=lambda case: case.id)
    if note is None:
        return cases
    return [replace(case, findings=(*case.findings, note)) for case in cases]


def channel_order(named: Any, path: Path) -> dict[str, int]:
    """Read which channel holds which modality.

    Args:
        named: The channels' names as the file gives them: {"0": "FLAIR", ...}, a list of names, or
            None.
        path: The file, for the message.

    Returns:
        Modality to channel, in the order of MODALITIES.

    Raises:
        UserError: The names are not those of the four modalities.
    """
    by_number = dict(enumerate(named)) if isinstance(named, list) else named
    if not isinstance(by_number, dict):
        raise UserError(
            f'{path}: names no channels; add "channel_names": '
            '{"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"} in the files\' order'
        )
    order = {
        modality_of(name): int(number)
        for number, name in by_number.items()
        if re.fullmatch("[0-9]{1,4}", str(number))
    }
    if not set(MODALITIES) <= set(order):
        raise UserError(
            f"{path}: its channels are {', '.join(map(str, by_number.values()))}; "
            f"needed are {', '.join(MODALITIES)}, each once"
        )
    return {modality: order[modality] for modality in MODALITIES}


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


def _volumes(folder: Path) -> dict[str, Path]:
    """Map stem to path for the NIfTI files in a folder that may be absent."""
    return {
        stem_of(path): path
        for path in sorted(folder.glob("*.nii*"))
        if not path.name.startswith(".") and re.search(r"\.nii(\.gz)?$", path.name)
    }


def _numbered(stem: str) -> re.Match[str] | None:
    """Match CASE_0000: the case's id and the channel."""
    return re.fullmatch(r"(.+)_(\d{4})", stem)


def _four_d(
    stem: str, path: Path, channels: dict[str, int], label: Path | None, convention: str
) -> Case:
    images = dict.fromkeys(MODALITIES, path)
    return Case(stem, patient_of(stem), images, label, convention, channels)


def _one_file_a_channel(
    volumes: Mapping[str, Path],
    channels: Mapping[str, int],
    labelled: Mapping[str, Path],
    convention: str,
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
            for modality in MODALITIES
            if modality not in images
        )
        yield Case(
            case_id,
            patient_of(case_id),
            images,
            labelled.get(case_id),
            convention,
            findings=findings,
        )


def _without_images(stem: str, path: Path, folder: Path, convention: str) -> Case:
    finding = Finding(
        ERROR,
        "missing modality",
        f"{stem}: {path} has no images in {folder}; add them or remove the segmentation",
    )
    return Case(stem, patient_of(stem), {}, path, convention, findings=(finding,))
