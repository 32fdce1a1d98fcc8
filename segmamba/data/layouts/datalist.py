"""A MONAI datalist: a JSON file that lists images, labels and folds, its paths relative to itself.

    {"channel_names": ["FLAIR", "T1", "T1ce", "T2"], "labels": {"ED": 1, ...},
     "training": [{"image": "BRATS_001.nii.gz" or [four files], "label": "...", "fold": 0}, ...],
     "testing": [{"image": ...}]}

`channel_names` (or `modality`) may be left out where four files are named as BraTS names them, and
`labels` too, or stated by --labels.
"""

from pathlib import Path
from typing import Any

from typing_extensions import Required, TypedDict

from segmamba.data.case import ERROR, INFORMATION, Case, Finding, patient_of
from segmamba.data.image_files import stem_of
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.contradictions import contradictions
from segmamba.data.layouts.dataset_json import DatasetJson, declared_convention
from segmamba.data.layouts.declared_names import channel_order, named_channels
from segmamba.data.layouts.names import part_findings
from segmamba.data.layouts.namings import LABEL, FilePart, convention_name, part_of
from segmamba.data.layouts.stated import convention_or_finding
from segmamba.data.missing import REFUSED
from segmamba.errors import UserError
from segmamba.json_files import read_json


class Entry(TypedDict, total=False):
    """One case of a section."""

    image: Required[str | list[str]]
    """A 4-D file, or a file for each modality."""
    label: str | None
    fold: int | str
    id: str | int


class Datalist(DatasetJson, total=False):
    """What is read of a datalist."""

    training: list[Entry | str]
    validation: list[Entry | str]
    testing: list[Entry | str]
    test: list[Entry | str]


def list_cases(path: Path, labels: str, *, missing: str = REFUSED) -> list[Case]:
    """List the cases of all sections.

    Args:
        path: The datalist.
        labels: A label convention, or "auto".
        missing: The setting `data.missing`; with zeros, not all modalities need be named.

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.

    Raises:
        UserError: The datalist does not say what its images and labels are.
    """
    content = read_json(path, Datalist)
    cases = [_case(entry, content, path, labels, missing) for entry in entries(content, path)]
    return sorted(cases, key=lambda case: case.id)


def folds_of(path: Path) -> dict[str, Any]:
    """Read the folds of a datalist.

    Args:
        path: The datalist.

    Returns:
        Case id to fold, for the entries that have one.

    Raises:
        UserError: The file is no datalist.
    """
    return {
        case_id(entry, path): entry["fold"]
        for entry in entries(read_json(path, Datalist), path)
        if "fold" in entry
    }


def entries(content: Datalist, path: Path) -> list[Entry]:
    """Collect the entries of all sections.

    Args:
        content: The datalist's content.
        path: The datalist, for the message.

    Returns:
        The entries; a bare file name becomes {"image": name}.

    Raises:
        UserError: There are none.
    """
    sections = (
        content.get("training", []),
        content.get("validation", []),
        content.get("testing", []),
        content.get("test", []),
    )
    listed = [
        Entry(image=entry) if isinstance(entry, str) else entry
        for section in sections
        for entry in section
    ]
    if not listed:
        raise UserError(
            f'{path}: lists no cases; expected a MONAI datalist with "training": '
            '[{"image": ..., "label": ...}, ...]'
        )
    return listed


def case_id(entry: Entry, path: Path) -> str:
    """Name the case of an entry.

    Args:
        entry: The entry.
        path: The datalist.

    Returns:
        The entry's own "id", else the case id in its BraTS file names, else the name of its first
        image.

    Raises:
        UserError: The entry has no image.
    """
    images = _images(entry, path)
    first = part_of(images[0])
    return str(
        entry.get("id") or (first.case_id if first and len(images) > 1 else stem_of(images[0]))
    )


def _images(entry: Entry, path: Path) -> list[Path]:
    images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
    if not images or not all(images):
        raise UserError(
            f'{path}: the entry {entry} has no "image", a 4-D file or a list of four files'
        )
    label = entry.get("label")
    files = [*images, *([label] if label else [])]
    if broken := [file for file in files if "\0" in file]:
        raise UserError(f"{path}: {broken[0]!a} is no file's name; correct the entry")
    return [path.parent / image for image in images]


def _case(entry: Entry, content: Datalist, path: Path, labels: str, missing: str) -> Case:
    images, name = _images(entry, path), case_id(entry, path)
    parts = [part for part in map(part_of, images) if part]
    by_name = parts if len(parts) == len(images) > 1 else []
    named = named_channels(content, path)
    if named is None and by_name:
        by_modality, channels, findings = _by_name(name, images, by_name, path)
    else:
        by_modality, channels, findings = _by_order(name, images, named, path, missing)
    if absent := [m for m in MODALITIES if m not in by_modality]:
        text = (
            f"{name}: {path} lists no {', '.join(absent)} for it; add the file or remove the case"
        )
        findings.append(Finding(ERROR, "missing modality", text))
    named_label = entry.get("label")
    label = path.parent / named_label if named_label else None
    findings += contradictions(name, {} if channels else by_modality, label, path)
    first = by_name[0] if by_name else None
    convention, notes = _convention(name, content, first, labels, label, path)
    return Case(
        name,
        patient_of(name),
        by_modality,
        label,
        convention,
        channels,
        (*findings, *notes),
        channel_count=len(named) if channels else 0,
    )


def _by_name(
    case_id: str, images: list[Path], parts: list[FilePart], path: Path
) -> tuple[dict[str, Path], dict[str, int], list[Finding]]:
    """Assign files to modalities by the files' names."""
    files: dict[str, list[Path]] = {}
    for part, image in zip(parts, images, strict=True):
        files.setdefault(part.part, []).append(image)
    findings = [
        finding for part in files for finding in part_findings(case_id, part, files[part], "")
    ]
    if LABEL in files:
        text = (
            f"{case_id}: {path} lists {files[LABEL][0]} as an image, but its name says "
            'segmentation; give it as "label"'
        )
        findings.append(Finding(ERROR, "contradicting names", text))
    return {part: paths[0] for part, paths in files.items() if part != LABEL}, {}, findings


def _by_order(
    case_id: str, images: list[Path], named: Any, path: Path, missing: str
) -> tuple[dict[str, Path], dict[str, int], list[Finding]]:
    """Assign files to modalities, and modalities to places on the last axis of a 4-D file.

    `named` are the channels that the datalist names.
    """
    order = channel_order(named, path, missing=missing)
    if len(images) == 1:
        return dict.fromkeys(order, images[0]), order, []
    findings = []
    if len(images) > len(named):
        text = (
            f"{case_id}: {path} lists {len(images)} images for it but names {len(named)} channels; "
            "name every channel or remove the images that are too many"
        )
        findings.append(Finding(ERROR, "surplus image", text))
    return {m: images[place] for m, place in order.items() if place < len(images)}, {}, findings


def _convention(
    case_id: str,
    content: Datalist,
    named: FilePart | None,
    labels: str,
    label: Path | None,
    path: Path,
) -> tuple[str, tuple[Finding, ...]]:
    """The label convention: stated, else declared, else told by the names; and notes on it."""
    told = convention_name(case_id, named.naming) if named else None
    if labels == "auto" and "labels" not in content and named:
        return convention_or_finding(case_id, told, label, f"the naming {named.naming.name}")
    convention, note = declared_convention(content.get("labels"), labels, path)
    notes: tuple[Finding, ...] = (note,) if note else ()
    if labels == "auto" and told and told != convention:
        text = (
            f"labels are read as {convention}, as {path.name} declares, although the files are "
            f"named as those of {told}"
        )
        notes += (Finding(INFORMATION, "declared labels", text),)
    return convention, notes
