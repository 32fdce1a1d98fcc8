"""Finding BraTS cases in a folder, by how their files are named.

    2018-2021   X/X_t1.nii.gz   X_t1ce   X_t2    X_flair   X_seg
    2023 on     X/X-t1n.nii.gz  X-t1c    X-t2w   X-t2f     X-seg

`.nii` as well as `.nii.gz`; cases may lie flat, in a folder each, or deeper (HGG/, LGG/).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from segmamba.data.labels import MODALITIES, convention
from segmamba.errors import UserError

LABEL = "label"


@dataclass(frozen=True)
class Naming:
    """A way to name the files of a case: separator, the suffix of each modality, and the label convention it implies."""

    separator: str
    suffixes: dict
    convention: str


NAMINGS = (
    Naming("_", {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR", "seg": LABEL}, "brats2018"),
    Naming("-", {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR", "seg": LABEL}, "brats2023"),
)


@dataclass(frozen=True)
class Case:
    """One time point of one patient. images: modality to Path, for all of MODALITIES; label is None without a segmentation."""

    id: str
    patient: str
    images: dict
    label: Path | None
    convention: str

    @property
    def files(self):
        return [*(self.images[m] for m in MODALITIES), *([self.label] if self.label else [])]


def find_cases(folder, labels="auto"):
    """Every case below `folder`, sorted by id. `labels` names a label convention, or "auto" takes that of the naming."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the BraTS cases")
    if labels != "auto":
        convention(labels)
    files = {}
    for path in sorted(folder.rglob("*.nii*")):
        if not path.name.startswith("."):
            _sort_in(path, files)
    if not files:
        raise UserError(
            f"{folder}: no BraTS case found; expected files named like CASE/CASE_t1ce.nii.gz (2018-2021) or CASE/CASE-t1c.nii.gz (2023 and later)"
        )
    cases = [_case(case_id, naming, parts, labels) for (case_id, naming), parts in sorted(files.items(), key=lambda item: item[0][0])]
    used = {c.convention: c.id for c in cases}
    if len(used) > 1:
        examples = ", ".join(f"{case_id} is {name}" for name, case_id in used.items())
        raise UserError(f"{folder}: cases of more than one label convention ({examples}); keep them in separate folders or state one with --labels")
    return cases


def _sort_in(path, files):
    stem = re.sub(r"\.nii(\.gz)?$", "", path.name)
    for number, naming in enumerate(NAMINGS):
        case_id, separator, suffix = stem.rpartition(naming.separator)
        part = naming.suffixes.get(suffix.lower())
        if separator and part:
            parts = files.setdefault((case_id, number), {})
            if part in parts:
                raise UserError(f"{case_id}: two files for {part}, {parts[part]} and {path}; remove one")
            parts[part] = path


def _case(case_id, number, parts, labels):
    naming = NAMINGS[number]
    for suffix, part in naming.suffixes.items():
        if part not in parts and part != LABEL:
            folder = next(iter(parts.values())).parent
            expected = folder / f"{case_id}{naming.separator}{suffix}.nii.gz"
            raise UserError(f"{case_id}: modality {part} is missing, expected {expected}; add the file or remove the case")
    images = {m: parts[m] for m in MODALITIES}
    return Case(case_id, patient_of(case_id), images, parts.get(LABEL), naming.convention if labels == "auto" else labels)


def patient_of(case_id):
    """The patient behind a case id: BraTS-GLI-00005-101 and -100 are one person, as are Brats18_2013_2_1 and _2."""
    if re.fullmatch(r"BraTS-\w+-\d+-\d{3}", case_id):
        return case_id.rpartition("-")[0]
    if re.fullmatch(r"brats1[789]_\w+_\d", case_id, re.IGNORECASE):
        return case_id.rpartition("_")[0]
    return case_id
