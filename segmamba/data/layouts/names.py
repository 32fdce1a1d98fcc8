"""Cases told by their files' names, as the BraTS challenges name them; flat, in a folder each, or deeper (HGG/, LGG/).

    2018-2021   X/X_t1.nii.gz   X_t1ce   X_t2    X_flair   X_seg      labels brats2018
    2023 on     X/X-t1n.nii.gz  X-t1c    X-t2w   X-t2f     X-seg      labels by the collection, see `convention_name`

Endings are .nii.gz or .nii (Kaggle's copies of 2020).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from segmamba.data.case import ERROR, INFORMATION, WARNING, Case, Finding, patient_of, stem_of

LABEL = "label"
PHANTOM_NOTE = "phantom.json"  # lies in a folder of embedded phantoms
POST_TREATMENT = 100  # GLI time points from 100 on are BraTS 2024's, after surgery, with the resection cavity as value 4


@dataclass(frozen=True)
class Naming:
    """A way to name the files of a case: the separator and the suffix of each part."""

    separator: str
    suffixes: dict


NAMINGS = (
    Naming("_", {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR", "seg": LABEL}),
    Naming("-", {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR", "seg": LABEL}),
)

# Files that were published under a name that no naming fits: (folder, stem) -> the name it should have had.
MISNAMED = {("BraTS20_Training_355", "W39_1998.09.19_Segm"): "BraTS20_Training_355_seg"}


def convention_name(case_id, naming):
    """The label convention that a case's name implies.

    Underscores are 2018-2021. Of the hyphenated, PED has values of its own and GLI's time points from 100 on and MET
    (since 2025) may hold a resection cavity; all others have those of 2023.
    """
    if naming.separator == "_":
        return "brats2018"
    collection = re.fullmatch(r"BraTS-(\w+)-\w+?(?:-(\d{3}))?", case_id, re.IGNORECASE)
    name, time_point = (collection[1].upper(), int(collection[2] or 0)) if collection else ("", 0)
    if name.startswith("PED"):
        return "brats2024ped"
    return (
        "brats2024"
        if name.startswith("MET") or (name == "GLI" and time_point >= POST_TREATMENT)
        else "brats2023"
    )


def part_of(path):
    """(case id, naming, part) of a file, part being a modality or LABEL; None for a name that no naming fits."""
    stem = MISNAMED.get((path.parent.name, stem_of(path)), stem_of(path))
    for naming in NAMINGS:
        case_id, separator, suffix = stem.rpartition(naming.separator)
        part = naming.suffixes.get(suffix.lower())
        if case_id and separator and part:
            return case_id, naming, part
    return None


def list_cases(folder, labels):
    """Every Case below `folder`, whole or with its errors among its findings; none is an empty list."""
    groups, strays = {}, {}
    for path in sorted(_nifti_files(folder)):
        if told := part_of(path):
            case_id, naming, part = told
            groups.setdefault((case_id, naming.separator), {}).setdefault(part, []).append(path)
        else:
            strays.setdefault(path.parent, []).append(path)
    namings = {naming.separator: naming for naming in NAMINGS}
    return [
        _case(case_id, namings[separator], parts, strays, labels)
        for (case_id, separator), parts in sorted(groups.items())
    ]


def _nifti_files(folder):
    """NIfTI files below `folder`, through symbolic links too. Embedded phantoms below it belong to a study's results, not to the data."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        place = Path(place)
        if place.resolve() in seen:  # links in a circle
            folders.clear()
            continue
        seen.add(place.resolve())
        folders[:] = [name for name in folders if not (place / name / PHANTOM_NOTE).exists()]
        yield from (
            place / name
            for name in files
            if not name.startswith(".") and re.search(r"\.nii(\.gz)?$", name)
        )


def _case(case_id, naming, parts, strays, labels):
    findings = []
    folder = next(iter(parts.values()))[0].parent
    for suffix, part in naming.suffixes.items():
        paths = parts.get(part, [])
        if not paths and part != LABEL:
            expected = folder / f"{case_id}{naming.separator}{suffix}.nii.gz"
            findings.append(
                Finding(
                    ERROR,
                    "missing modality",
                    f"{case_id}: modality {part} is missing, expected {expected}; add the file or remove the case",
                )
            )
        if len(paths) > 1:
            text = f"{case_id}: {_count(len(paths))} files for {part}, {' and '.join(map(str, paths))}; remove all but one"
            findings.append(
                Finding(
                    ERROR, "duplicate segmentation" if part == LABEL else "duplicate modality", text
                )
            )
    label = parts[LABEL][0] if LABEL in parts else None
    if label and (label.parent.name, stem_of(label)) in MISNAMED:
        text = f"{case_id}: {label.name} is taken as its segmentation, which was published under that name"
        findings.append(Finding(INFORMATION, "misnamed file", text))
    if label is None and folder in strays and folder.name == case_id:
        names = ", ".join(path.name for path in strays[folder])
        text = f"{case_id}: no segmentation, but {names} beside it; rename it {case_id}{naming.separator}seg.nii.gz if it is one"
        findings.append(Finding(WARNING, "unknown file", text))
    images = {part: paths[0] for part, paths in parts.items() if part != LABEL}
    convention = convention_name(case_id, naming) if labels == "auto" else labels
    return Case(case_id, patient_of(case_id), images, label, convention, findings=tuple(findings))


def _count(number):
    return {2: "two", 3: "three"}.get(number, str(number))
