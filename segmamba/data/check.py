"""What is wrong with a data set: every header and every voxel of every case, all faults of each, in parallel.

An error is what a training run would stop at, a warning what it would survive, information neither. The errors of a case are
those that `read_scan` raises, from the same code.
"""

import csv
import io
from collections import Counter
from dataclasses import dataclass

import nibabel
import numpy as np

from segmamba.data.case import ERROR, INFORMATION, SEVERITIES, WARNING, Finding
from segmamba.data.cases import list_cases, notes_on_labels
from segmamba.data.parallel import map_cases
from segmamba.data.volumes import read_case
from segmamba.files import write_text
from segmamba.screen import print_line

SAME_SPACING_MM = 1e-3
ISOTROPIC_SHARE = 0.01  # sides of a voxel that differ by less count as equal
OBLIQUE_DEGREES = 1.0


@dataclass(frozen=True)
class Checked:
    """A case's id, patient, label convention and all its Findings; none for a case without fault."""

    id: str
    patient: str
    convention: str
    findings: tuple


def check(source, labels="auto", *, progress=lambda done, total: None):
    """The Checked of every case of `source`, sorted by id; see `find_cases` for source and labels. Bad data never raises.

    progress: called with (cases done, cases in all) after each case.
    """
    return map_cases(check_case, list_cases(source, labels), lost=_lost, progress=progress)


def check_case(case):
    """A Case as Checked, from what its files hold."""
    reading = read_case(case)
    findings = [
        *case.findings,
        *reading.findings,
        *_grid(case, reading),
        *_segmentation(case, reading),
    ]
    return Checked(
        case.id,
        case.patient,
        case.convention,
        tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))),
    )


def _lost(case):
    text = f"{case.id}: not read, the process that read it or a case beside it was killed (memory?); free some memory and check again"
    return Checked(case.id, case.patient, case.convention, (Finding(ERROR, "not checked", text),))


def _grid(case, reading):
    if not reading.axis_codes:
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
            f"{case.id}: voxels of {spacing} mm instead of 1 mm; they are resampled to data.spacing_mm",
        )
    for path, codes in reading.axis_codes.items():
        if [{"L": "R", "P": "A", "I": "S"}.get(code, code) for code in codes] != ["R", "A", "S"]:
            text = f"{case.id}: {path.name} is stored along {''.join(codes)}; its axes are put in the order x, y, z"
            yield Finding(WARNING, "orientation", text)
    if len(set(reading.axis_codes.values())) > 1:
        told = ", ".join(
            f"{path.name} {''.join(codes)}" for path, codes in reading.axis_codes.items()
        )
        yield Finding(
            WARNING,
            "orientation",
            f"{case.id}: its files are stored in different directions ({told}); they are turned alike",
        )
    degrees = np.rad2deg(nibabel.affines.obliquity(reading.affine)).max()
    if degrees > OBLIQUE_DEGREES:
        yield Finding(
            WARNING,
            "orientation",
            f"{case.id}: its grid is turned {degrees:.1f} degrees against the patient's axes; it is used as it is",
        )


def _segmentation(case, reading):
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
            f"{case.id}: {case.label} holds no tumour; right for a healthy scan, else replace the file",
        )
    elif reading.label is not None and reading.channels:
        tumour = reading.label > 0
        empty = {modality: channel[tumour] == 0 for modality, channel in reading.channels.items()}
        if outside := int(np.count_nonzero(np.logical_and.reduce(list(empty.values())))):
            each = ", ".join(
                f"{modality} in {np.count_nonzero(zero)}" for modality, zero in empty.items()
            )
            where = f"all {len(empty)} images are 0 there; each on its own is 0 in more or as many tumour voxels: {each}"
            text = f"{case.id}: {outside} tumour voxels of {case.label} lie outside the brain ({where})"
            yield Finding(WARNING, "tumour outside brain", text)


def count(checked, severity):
    """How many cases have a finding of this severity."""
    return sum(any(finding.severity == severity for finding in case.findings) for case in checked)


def would_fail(checked):
    """Whether a training run on these cases would stop."""
    return count(checked, ERROR) > 0


def as_rows(checked):
    """A dict of texts for each finding, and one with severity "ok" for each case without any."""
    for case in checked:
        for finding in case.findings or (Finding("ok", "", ""),):
            told = {"severity": finding.severity, "problem": finding.kind, "text": finding.text}
            yield {"case": case.id, "patient": case.patient, "labels": case.convention, **told}


def write_csv(path, checked):
    """The rows as a CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ("case", "patient", "labels", "severity", "problem", "text"), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(as_rows(checked))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, text.getvalue())


def render(checked, console):
    """Every error and warning as a line, what is mere information as a count, then the sum."""
    rows = list(as_rows(checked))
    for row in rows:
        if row["severity"] in (ERROR, WARNING):
            print_line(
                console,
                f"{row['severity']:8s} {row['text']}",
                "red" if row["severity"] == ERROR else None,
            )
    known = Counter(row["problem"] for row in rows if row["severity"] == INFORMATION)
    for kind, cases in known.items():
        print_line(
            console,
            f"note     {kind}, {cases} of {len(checked)} cases: {next(row['text'] for row in rows if row['problem'] == kind)}",
        )
    for note in notes_on_labels(checked):
        print_line(console, f"note     {note}")
    sums = f"{count(checked, ERROR)} with errors, {count(checked, WARNING)} with warnings"
    labels = ", ".join(sorted({case.convention for case in checked}))
    patients = len({case.patient for case in checked})
    print_line(
        console,
        f"{len(checked)} cases of {patients} patients, labels {labels}: {sums}. {_verdict(checked, known)}",
    )


def _verdict(checked, known):
    if would_fail(checked):
        return "A training run would fail."
    if known["no segmentation"] == len(checked):
        return "None has a segmentation: for prediction and pretraining only."
    return "A training run can read them all."
