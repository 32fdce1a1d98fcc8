"""Cases found by their files' names, as BraTS and the data sets around it name them.

    2018-2021   X/X_t1.nii.gz   X_t1ce   X_t2    X_flair   X_seg   labels brats2018
    2023 on     X/X-t1n.nii.gz  X-t1c    X-t2w   X-t2f     X-seg   labels: see `convention_name`

and those of `namings.DATA_SETS`. The files lie flat, in a folder for each case, or deeper (HGG/,
LGG/), the segmentations in the same folder or another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from segmamba.data.case import ERROR, INFORMATION, WARNING, Case, Finding, patient_of
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.namings import LABEL, Bids, Naming, convention_name, is_misnamed, part_of
from segmamba.data.layouts.stated import convention_or_finding

DERIVATIVES = "derivatives"  # BIDS: what was computed from the images, copies of them included


def list_cases(files: Iterable[Path], labels: str) -> list[Case]:
    """List the cases that the names of files tell.

    Args:
        files: Image files; one whose name no naming fits belongs to no case.
        labels: A label convention, or "auto".

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.
    """
    groups: dict[tuple[str, str], dict[str, list[Path]]] = {}
    strays: dict[Path, list[Path]] = {}
    namings: dict[str, Naming] = {}
    for path in sorted(files):
        if file_part := part_of(path):
            case_id, naming, part = file_part
            namings[naming.name] = naming
            groups.setdefault((case_id, naming.name), {}).setdefault(part, []).append(path)
        else:
            strays.setdefault(path.parent, []).append(path)
    return [
        _case(case_id, namings[name], parts, strays, labels)
        for (case_id, name), parts in sorted(groups.items())
    ]


def _case(
    case_id: str,
    naming: Naming,
    parts: Mapping[str, Sequence[Path]],
    strays: Mapping[Path, Sequence[Path]],
    labels: str,
) -> Case:
    if isinstance(naming, Bids):
        parts = {part: _raw(part, paths) for part, paths in parts.items()}
    folder = next((parts[part] for part in parts if part != LABEL), parts.get(LABEL, ()))[0].parent
    findings: list[Finding] = []
    for part in (*MODALITIES, LABEL):
        expected = folder / f"{case_id}{naming.separator}{naming.suffix_of(part)}.nii.gz"
        findings += part_findings(case_id, part, parts.get(part, ()), str(expected))
    label = parts[LABEL][0] if LABEL in parts else None
    if label and is_misnamed(label):
        text = (
            f"{case_id}: {label.name} is taken as its segmentation, "
            "which was published under that name"
        )
        findings.append(Finding(INFORMATION, "misnamed file", text))
    if label is None and folder in strays and folder.name == case_id:
        beside = ", ".join(path.name for path in strays[folder])
        text = (
            f"{case_id}: no segmentation, but {beside} beside it; "
            f"rename it {case_id}{naming.separator}{naming.suffix_of(LABEL)}.nii.gz if it is one"
        )
        findings.append(Finding(WARNING, "unknown file", text))
    images = {part: paths[0] for part, paths in parts.items() if part != LABEL}
    told = convention_name(case_id, naming) if labels == "auto" else labels
    convention, unknown = convention_or_finding(case_id, told, label, f"the naming {naming.name}")
    return Case(
        case_id, patient_of(case_id), images, label, convention, findings=(*findings, *unknown)
    )


def _raw(part: str, paths: Sequence[Path]) -> Sequence[Path]:
    """Prefer images to what was computed from them, where there are both."""
    raw = [path for path in paths if DERIVATIVES not in path.parts]
    return raw if raw and part != LABEL else paths


def part_findings(
    case_id: str, part: str, paths: Sequence[Path], expected: str
) -> Iterator[Finding]:
    """Report a modality that is missing, and a part with several files.

    Args:
        case_id: The case.
        part: A modality or LABEL.
        paths: The files that are named as this part.
        expected: What such a file would be named.

    Yields:
        The errors.
    """
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
            "remove all but one, or say which with --names",
        )
