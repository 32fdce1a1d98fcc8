"""What is wrong with a data set: every header and every voxel of every case, all faults of each.

An error is what a training run would stop at, a warning what it would survive, information neither.
The errors of a case are those that `read_scan` raises, from the same code. Cases are checked in
parallel.
"""

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np

from segmamba.config import DataConfig
from segmamba.data.case import ERROR, INFORMATION, SEVERITIES, WARNING, Case, Finding
from segmamba.data.cases import list_cases, notes_on_labels
from segmamba.data.grid_size import check_working_shape
from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import convention
from segmamba.data.missing import REFUSED
from segmamba.data.parallel import map_cases
from segmamba.data.patients import describe_patients, with_patients
from segmamba.data.same_images import find_same_images, image_digests
from segmamba.data.volumes import Reading, read_case
from segmamba.errors import UserError
from segmamba.files import write_text
from segmamba.screen import print_line

if TYPE_CHECKING:
    from rich.console import Console

SAME_SPACING_MM = 1e-3
ISOTROPIC_SHARE = 0.01  # sides of a voxel that differ by less count as equal
OBLIQUE_DEGREES = 1.0
COLUMNS = ("case", "patient", "labels", "severity", "problem", "text")
OPPOSITE = {"L": "R", "P": "A", "I": "S"}


@dataclass(frozen=True)
class Checked:
    """A case and all that is to say about it."""

    id: str
    patient: str
    convention: str
    """Name of the label convention."""
    findings: tuple[Finding, ...]
    """Errors first; empty for a case without fault."""
    image_digests: tuple[str, ...] = ()
    """What tells its images apart from those of other cases."""

    @property
    def label_set(self) -> LabelSet:
        """The classes that its label convention tells apart."""
        return convention(self.convention).labels


def check(
    source: Path | str,
    labels: str = "auto",
    names: Sequence[str] = (),
    *,
    patients: str = "",
    missing: str = REFUSED,
    config: DataConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checked]:
    """Check every case of a data set. Faulty cases never raise.

    Args:
        source: As `find_cases` takes it.
        labels: As `find_cases` takes it.
        names: As `find_cases` takes it.
        patients: The setting `data.patients`.
        missing: The setting `data.missing`.
        config: How headers are read, and the working grid's spacing; None takes the defaults.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        The checked cases, sorted by id.

    Raises:
        UserError: No case is found, or `patients` does not fit them.
    """
    config = config or DataConfig()
    cases = list_cases(source, labels, names, config.header_rules, missing=missing)
    function = functools.partial(check_case, spacing_mm=config.spacing_mm)
    checked = map_cases(function, with_patients(cases, patients), lost=_lost, progress=progress)
    same = find_same_images(checked)
    return [
        replace(case, findings=_sorted([*case.findings, *same.findings(case.id)]))
        for case in checked
    ]


def check_case(case: Case, spacing_mm: float = DataConfig.spacing_mm) -> Checked:
    """Check one case by reading its files.

    Args:
        case: As the layouts find it.
        spacing_mm: Voxel size of the working grid.

    Returns:
        The case with all findings.
    """
    reading = read_case(case)
    findings = [
        *case.findings,
        *reading.findings,
        *_spacing(case, reading),
        *_working_grid(case, reading, spacing_mm),
        *_directions(case, reading),
        *_segmentation(case, reading),
    ]
    return Checked(
        case.id,
        case.patient,
        case.convention,
        _sorted(findings),
        tuple(image_digests(reading.channels.values())),
    )


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _lost(case: Case) -> Checked:
    text = (
        f"{case.id}: not read, the process that read it or a case beside it was killed (memory?); "
        "free some memory and check again"
    )
    return Checked(case.id, case.patient, case.convention, (Finding(ERROR, "not checked", text),))


def _spacing(case: Case, reading: Reading) -> Iterator[Finding]:
    """Report voxels that training resamples."""
    if reading.affine is None:  # no image could be read
        return
    spacing = " x ".join(f"{s:g}" for s in reading.spacing_mm)
    if max(reading.spacing_mm) > min(reading.spacing_mm) * (1 + ISOTROPIC_SHARE):
        yield Finding(
            WARNING,
            "anisotropic spacing",
            f"{case.id}: voxels of {spacing} mm; they are resampled to data.spacing_mm",
        )
    elif any(abs(s - 1) > SAME_SPACING_MM for s in reading.spacing_mm):
        yield Finding(
            WARNING,
            "spacing",
            f"{case.id}: voxels of {spacing} mm instead of 1 mm; "
            "they are resampled to data.spacing_mm",
        )


def _working_grid(case: Case, reading: Reading, spacing_mm: float) -> Iterator[Finding]:
    """Report a volume that cannot be brought to the working grid."""
    if reading.affine is None or not reading.channels:
        return
    shape = next(iter(reading.channels.values())).shape
    try:
        check_working_shape(shape, reading.spacing_mm, spacing_mm, case.header.max_volume_mib)
    except UserError as error:
        yield Finding(ERROR, "size", f"{case.id}: {error}")


def _directions(case: Case, reading: Reading) -> Iterator[Finding]:
    """Report axes in another order, files that differ in direction, and an oblique grid."""
    for path, codes in reading.axis_codes.items():
        if [OPPOSITE.get(code, code) for code in codes] != ["R", "A", "S"]:
            text = (
                f"{case.id}: {path.name} is stored along {''.join(codes)}; "
                "its axes are put in the order x, y, z"
            )
            yield Finding(WARNING, "orientation", text)
    if len(set(reading.axis_codes.values())) > 1:
        stored = ", ".join(
            f"{path.name} {''.join(codes)}" for path, codes in reading.axis_codes.items()
        )
        yield Finding(
            WARNING,
            "orientation",
            f"{case.id}: its files are stored in different directions ({stored}); "
            "they are turned alike",
        )
    if reading.affine is None:
        return
    degrees = np.rad2deg(nibabel.affines.obliquity(reading.affine)).max()
    if degrees > OBLIQUE_DEGREES:
        yield Finding(
            WARNING,
            "orientation",
            f"{case.id}: its grid is turned {degrees:.1f} degrees against the patient's axes; "
            "it is used as it is",
        )


def _segmentation(case: Case, reading: Reading) -> Iterator[Finding]:
    """Report a segmentation that is missing, empty or outside the brain."""
    if case.label is None:
        yield Finding(
            INFORMATION,
            "no segmentation",
            f"{case.id}: no segmentation; usable for prediction and pretraining",
        )
    elif reading.label is not None and not reading.label.any():
        yield Finding(
            WARNING,
            "empty segmentation",
            f"{case.id}: {case.label} holds no tumour; "
            "right for a healthy scan, else replace the file",
        )
    elif reading.label is not None and reading.channels:
        yield from _tumour_outside(case, reading.label > 0, reading.channels)


def _tumour_outside(
    case: Case, tumour: np.ndarray, channels: Mapping[str, np.ndarray]
) -> Iterator[Finding]:
    """Report tumour voxels, bool (x, y, z), where all images are 0."""
    empty = {modality: channel[tumour] == 0 for modality, channel in channels.items()}
    outside = int(np.count_nonzero(np.logical_and.reduce(list(empty.values()))))
    if not outside:
        return
    each = ", ".join(f"{modality} in {np.count_nonzero(zero)}" for modality, zero in empty.items())
    yield Finding(
        WARNING,
        "tumour outside brain",
        f"{case.id}: {outside} tumour voxels of {case.label} lie outside the brain "
        f"(all {len(empty)} images are 0 there; each on its own is 0 in more or as many "
        f"tumour voxels: {each})",
    )


def count(checked: Sequence[Checked], severity: str) -> int:
    """Count the cases that have a finding of a severity.

    Args:
        checked: The checked cases.
        severity: One of SEVERITIES.

    Returns:
        How many cases have one.
    """
    return sum(any(finding.severity == severity for finding in case.findings) for case in checked)


def would_fail(checked: Sequence[Checked]) -> bool:
    """Tell whether a training run on these cases would stop.

    Args:
        checked: The checked cases.

    Returns:
        Whether one of them has an error.
    """
    return count(checked, ERROR) > 0


def as_rows(checked: Sequence[Checked]) -> Iterator[dict[str, str]]:
    """List all findings as a table.

    Args:
        checked: The checked cases.

    Yields:
        A row for each finding, and one with severity "ok" for each case without any.
    """
    for case in checked:
        for finding in case.findings or (Finding("ok", "", ""),):
            yield {
                "case": case.id,
                "patient": case.patient,
                "labels": case.convention,
                "severity": finding.severity,
                "problem": finding.kind,
                "text": finding.text,
            }


def write_csv(path: Path, checked: Sequence[Checked]) -> Path:
    """Write the rows as a CSV file, whole or not at all.

    Args:
        path: The file; its folder is made.
        checked: The checked cases.

    Returns:
        `path`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(as_rows(checked))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, text.getvalue())


def render(checked: Sequence[Checked], console: "Console", patients: str = "") -> None:
    """Print every error and warning as a line, information as counts, then the sum.

    Args:
        checked: The checked cases.
        console: Where to print.
        patients: The setting `data.patients`.
    """
    rows = list(as_rows(checked))
    for row in rows:
        if row["severity"] in (ERROR, WARNING):
            style = "red" if row["severity"] == ERROR else None
            print_line(console, f"{row['severity']:8s} {row['text']}", style)
    known = Counter(row["problem"] for row in rows if row["severity"] == INFORMATION)
    for kind, cases in known.items():
        example = next(row["text"] for row in rows if row["problem"] == kind)
        print_line(console, f"note     {kind}, {cases} of {len(checked)} cases: {example}")
    for note in notes_on_labels(checked):
        print_line(console, f"note     {note}")
    sums = f"{count(checked, ERROR)} with errors, {count(checked, WARNING)} with warnings"
    labels = ", ".join(sorted({case.convention for case in checked}))
    same = find_same_images(checked)
    people = len({same.patient(case.patient) for case in checked})
    print_line(console, f"note     {describe_patients(checked, patients, same)}")
    print_line(
        console,
        f"{len(checked)} cases of {people} patients, labels {labels}: {sums}. "
        f"{_verdict(checked, known)}",
    )


def _verdict(checked: Sequence[Checked], known: Counter[str]) -> str:
    if would_fail(checked):
        return "A training run would fail."
    if known["no segmentation"] == len(checked):
        return "None has a segmentation: for prediction and pretraining only."
    return "A training run can read them all."
