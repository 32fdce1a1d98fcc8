"""The fingerprint of a data set: grids, intensities and volumes of the regions.

Cases with errors are left out and counted; `segmamba data check` says what is wrong with them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.background import bounding_box
from segmamba.data.case import ERROR, Case
from segmamba.data.cases import list_cases, notes_on, notes_on_unused
from segmamba.data.label_sets import LabelSet, common_set, region_dict
from segmamba.data.labels import MODALITIES
from segmamba.data.missing import REFUSED
from segmamba.data.parallel import Progress, map_cases, no_progress
from segmamba.data.patients import describe_patients, with_patients
from segmamba.data.same_images import find_same_images, image_digests
from segmamba.data.volumes import read_case
from segmamba.errors import UserError

# The quantiles of nnU-Net's fingerprint (Isensee et al. 2021).
QUANTILES = {"p0.5": 0.005, "median": 0.5, "p99.5": 0.995}


@dataclass(frozen=True)
class MeasuredCase:
    """What one case adds to the fingerprint."""

    id: str
    patient: str
    image_digests: tuple[str, ...]
    shape: tuple[int, ...]
    """Voxels x, y, z in canonical orientation."""
    spacing_mm: tuple[float, ...]
    brain_mm: tuple[float, ...]
    """Sides of the box around all voxels where some image is not 0."""
    intensities: dict[str, dict[str, float]]
    """{modality: {"mean", "std", "p0.5", "median", "p99.5"}} over the voxels that are not 0."""
    volumes_ml: dict[str, float] | None
    """{region: millilitres}; None without a segmentation."""


class Spread(TypedDict):
    """How a number is spread over cases."""

    min: float
    median: float
    max: float


class Fingerprint(TypedDict):
    """What summary.json holds."""

    cases: int
    patients: int
    labelled: int
    """Cases with a segmentation."""
    unreadable: list[str]
    """Ids of the cases with errors."""
    labels: dict[str, int]
    """{label convention: cases}."""
    notes: list[str]
    shapes: dict[str, int]
    """{"x x y x z": cases}, voxels, the most frequent first."""
    spacings_mm: dict[str, int]
    """{"x x y x z": cases}, the most frequent first."""
    brain_mm: dict[str, Spread]
    """{axis: side of the box around the brain}."""
    intensities: dict[str, dict[str, Spread]]
    """{modality: {statistic within the brain: its spread}}, over the cases that have it."""
    volumes_ml: dict[str, Spread | None]
    """{region: volume}; None without labelled cases."""
    cases_without: dict[str, list[str]]
    """{region: ids of the labelled cases without it}."""


def summarise(
    source: str | Path,
    labels: str = "auto",
    names: Sequence[str] = (),
    *,
    patients: str = "",
    missing: str = REFUSED,
    header: HeaderRules | None = None,
    progress: Progress = no_progress,
) -> tuple[Fingerprint, list[MeasuredCase]]:
    """Measure all cases of a data set.

    Args:
        source: The data set, as `find_cases` takes it.
        labels: The label convention, as `find_cases` takes it.
        names: How the files are named, as `find_cases` takes it.
        patients: The setting `data.patients`.
        missing: The setting `data.missing`.
        header: How headers are read, as `find_cases` takes it.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        (fingerprint, the measured cases).

    Raises:
        UserError: No case can be read, or `patients` does not fit the cases.
    """
    cases = list_cases(source, labels, names, header, missing=missing)
    cases = with_patients(cases, patients)
    common = common_set(case.label_set for case in cases)
    cases = [replace(case, classes=common.name) for case in cases]
    results = map_cases(measure_case, cases, lost=lambda case: None, progress=progress)
    unreadable = [case.id for case, result in zip(cases, results, strict=True) if result is None]
    measured = [result for result in results if result]
    if not measured:
        raise UserError(
            f"{source}: none of its {len(cases)} cases can be read; `segmamba data check {source}` "
            "says why"
        )
    same = find_same_images(measured)
    people = describe_patients(cases, patients, same)
    fingerprint = _fingerprint(cases, measured, unreadable, common)
    fingerprint["patients"] = len({same.patient(case.patient) for case in cases})
    counts = Counter(m for case in measured for m in MODALITIES if m not in case.intensities)
    fingerprint["notes"] += [
        f"{m} is missing in {counts[m]} of {len(measured)} cases" for m in MODALITIES if counts[m]
    ]
    notes = fingerprint["notes"] + notes_on_unused(source, labels, names, missing=missing)
    fingerprint["notes"] = [people, *same.notes, *notes]
    return fingerprint, measured


def measure_case(case: Case) -> MeasuredCase | None:
    """Measure one case.

    Args:
        case: The case.

    Returns:
        What it adds to the fingerprint; None if a training run could not read it.
    """
    reading = read_case(case)
    if any(finding.severity == ERROR for finding in (*case.findings, *reading.findings)):
        return None
    brain = np.logical_or.reduce([channel != 0 for channel in reading.channels.values()])
    volumes_ml = None
    if reading.label is not None:
        voxel_ml = float(np.prod(reading.spacing_mm)) / 1000
        volumes_ml = {
            region: float(np.count_nonzero(mask) * voxel_ml)
            for region, mask in region_dict(reading.label, case.label_set).items()
        }
    return MeasuredCase(
        id=case.id,
        patient=case.patient,
        image_digests=tuple(image_digests(reading.channels.values())),
        shape=brain.shape,
        spacing_mm=reading.spacing_mm,
        brain_mm=tuple(
            (side.stop - side.start) * mm
            for side, mm in zip(bounding_box(brain), reading.spacing_mm, strict=True)
        ),
        intensities={
            m: _statistics(reading.channels[m]) for m in MODALITIES if m in reading.channels
        },
        volumes_ml=volumes_ml,
    )


def _statistics(channel: np.ndarray) -> dict[str, float]:
    values = channel[channel != 0]
    quantiles = np.quantile(values, list(QUANTILES.values()))
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return {"mean": float(mean), "std": float(std)} | dict(
        zip(QUANTILES, map(float, quantiles), strict=True)
    )


def _fingerprint(
    cases: Sequence[Case],
    measured: Sequence[MeasuredCase],
    unreadable: list[str],
    labels: LabelSet,
) -> Fingerprint:
    labelled = [(case.id, case.volumes_ml) for case in measured if case.volumes_ml is not None]
    return {
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "labelled": len(labelled),
        "unreadable": unreadable,
        "labels": dict(Counter(case.convention for case in cases)),
        "notes": notes_on(cases),
        "shapes": _counted(tuple(case.shape) for case in measured),
        "spacings_mm": _counted(tuple(round(s, 4) for s in case.spacing_mm) for case in measured),
        "brain_mm": {
            axis: _spread([case.brain_mm[place] for case in measured])
            for place, axis in enumerate("xyz")
        },
        "intensities": {
            modality: {
                name: _spread([row[name] for row in rows]) for name in ("mean", "std", *QUANTILES)
            }
            for modality in MODALITIES
            if (rows := [c.intensities[modality] for c in measured if modality in c.intensities])
        },
        "volumes_ml": {
            region: _spread([volumes[region] for _, volumes in labelled]) if labelled else None
            for region in labels.regions
        },
        "cases_without": {
            region: [case_id for case_id, volumes in labelled if volumes[region] == 0]
            for region in labels.regions
        },
    }


def _counted(keys: Iterable[tuple[float, ...]]) -> dict[str, int]:
    return {
        " x ".join(f"{number:g}" for number in key): count
        for key, count in Counter(keys).most_common()
    }


def _spread(values: Sequence[float]) -> Spread:
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}
