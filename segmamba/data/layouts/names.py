"""Cases found by their files' names, as the BraTS challenges name them.

    2018-2021   X/X_t1.nii.gz   X_t1ce   X_t2    X_flair   X_seg   labels brats2018
    2023 on     X/X-t1n.nii.gz  X-t1c    X-t2w   X-t2f     X-seg   labels: see `convention_name`

The files lie flat, in a folder for each case, or deeper (HGG/, LGG/). Endings are .nii.gz or .nii
(Kaggle's copies of 2020).
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segmamba.data.case import ERROR, INFORMATION, WARNING, Case, Finding, patient_of, stem_of

LABEL = "label"
PHANTOM_NOTE = "phantom.json"  # lies in a folder of embedded phantoms

# GLI time points from 100 on are BraTS 2024's, after surgery, with the resection cavity as value 4.
POST_TREATMENT = 100


@dataclass(frozen=True)
class Naming:
    """A way to name the files of a case."""

    separator: str
    """Between the case's id and the suffix."""
    suffixes: dict[str, str]
    """Suffix to modality or LABEL."""


class FilePart(NamedTuple):
    """What a file's name tells about the file."""

    case_id: str
    naming: Naming
    part: str
    """A modality or LABEL."""


NAMINGS = (
    Naming("_", {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR", "seg": LABEL}),
    Naming("-", {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR", "seg": LABEL}),
)

# Files that were published under a name that no naming fits: (folder, stem) to the right name.
MISNAMED = {("BraTS20_Training_355", "W39_1998.09.19_Segm"): "BraTS20_Training_355_seg"}


def convention_name(case_id: str, naming: Naming) -> str:
    """Derive the label convention from a case's name.

    Names with underscores are those of 2018-2021. Among the hyphenated ones, PED has values of its
    own; GLI's time points from 100 on and MET (since 2025) may hold a resection cavity; all others
    have the values of 2023.

    Args:
        case_id: The case's id.
        naming: How its files are named.

    Returns:
        The convention's name.
    """
    if naming.separator == "_":
        return "brats2018"
    collection = re.fullmatch(r"BraTS-(\w+)-\w+?(?:-(\d{3}))?", case_id, re.IGNORECASE)
    name, time_point = (collection[1].upper(), int(collection[2] or 0)) if collection else ("", 0)
    if name.startswith("PED"):
        return "brats2024ped"
    post_treatment = name == "GLI" and time_point >= POST_TREATMENT
    return "brats2024" if name.startswith("MET") or post_treatment else "brats2023"


def part_of(path: Path) -> FilePart | None:
    """Read a file's name.

    Args:
        path: A NIfTI file.

    Returns:
        The case, the naming and the part, or None for a name that no naming fits.
    """
    stem = MISNAMED.get((path.parent.name, stem_of(path)), stem_of(path))
    for naming in NAMINGS:
        case_id, separator, suffix = stem.rpartition(naming.separator)
        part = naming.suffixes.get(suffix.lower())
        if case_id and separator and part:
            return FilePart(case_id, naming, part)
    return None


def list_cases(folder: Path, labels: str) -> list[Case]:
    """List the cases below a folder.

    Args:
        folder: Searched with all its subfolders.
        labels: A label convention, or "auto".

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.
    """
    groups: dict[tuple[str, str], dict[str, list[Path]]] = {}
    strays: dict[Path, list[Path]] = {}
    for path in sorted(_nifti_files(folder)):
        if file_part := part_of(path):
            case_id, naming, part = file_part
            groups.setdefault((case_id, naming.separator), {}).setdefault(part, []).append(path)
        else:
            strays.setdefault(path.parent, []).append(path)
    namings = {naming.separator: naming for naming in NAMINGS}
    return [
        _case(case_id, namings[separator], parts, strays, labels)
        for (case_id, separator), parts in sorted(groups.items())
    ]


def _nifti_files(folder: Path) -> Iterator[Path]:
    """Find the NIfTI files below a folder, through symbolic links too.

    Embedded phantoms below it belong to a study's results, not to the data.
    """
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # links in a circle
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = [name for name in folders if not (here / name / PHANTOM_NOTE).exists()]
        yield from (
            here / name
            for name in files
            if not name.startswith(".") and re.search(r"\.nii(\.gz)?$", name)
        )


def _case(
    case_id: str,
    naming: Naming,
    parts: Mapping[str, Sequence[Path]],
    strays: Mapping[Path, Sequence[Path]],
    labels: str,
) -> Case:
    folder = next(iter(parts.values()))[0].parent
    findings: list[Finding] = []
    for suffix, part in naming.suffixes.items():
        expected = folder / f"{case_id}{naming.separator}{suffix}.nii.gz"
        findings += _part_findings(case_id, part, parts.get(part, ()), expected)
    label = parts[LABEL][0] if LABEL in parts else None
    if label and (label.parent.name, stem_of(label)) in MISNAMED:
        text = (
            f"{case_id}: {label.name} is taken as its segmentation, "
            "which was published under that name"
        )
        findings.append(Finding(INFORMATION, "misnamed file", text))
    if label is None and folder in strays and folder.name == case_id:
        beside = ", ".join(path.name for path in strays[folder])
        text = (
            f"{case_id}: no segmentation, but {beside} beside it; "
            f"rename it {case_id}{naming.separator}seg.nii.gz if it is one"
        )
        findings.append(Finding(WARNING, "unknown file", text))
    images = {part: paths[0] for part, paths in parts.items() if part != LABEL}
    convention = convention_name(case_id, naming) if labels == "auto" else labels
    return Case(case_id, patient_of(case_id), images, label, convention, findings=tuple(findings))


def _part_findings(
    case_id: str, part: str, paths: Sequence[Path], expected: Path
) -> Iterator[Finding]:
    """Report a modality that is missing, and a part with several files."""
    if not paths and part != LABEL:
        yield Finding(
            ERROR,
            "missing modality",
            f"{case_id}: modality {part} is missing, expected {expected}; "
            "add the file or remove the case",
        )
    if len(paths) > 1:
        count = {2: "two", 3: "three"}.get(len(paths), str(len(paths)))
        yield Finding(
            ERROR,
            "duplicate segmentation" if part == LABEL else "duplicate modality",
            f"{case_id}: {count} files for {part}, {' and '.join(map(str, paths))}; "
            "remove all but one",
        )
