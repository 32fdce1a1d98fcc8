"""Patients by tumour volume and presence of ET, and folds in which both are alike."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from segmamba.data.case import Case
from segmamba.data.label_sets import LabelSet, region_dict
from segmamba.data.labels import to_classes
from segmamba.data.parallel import map_cases
from segmamba.data.volumes import read_volume
from segmamba.errors import UserError

Stratum: TypeAlias = tuple[bool, int]
"""Of one patient: whether any case has ET, and the voxels of the largest tumour."""


class PatientCase(Protocol):
    """What a case must have to be found in a fold."""

    @property
    def id(self) -> str: ...

    @property
    def patient(self) -> str: ...


class LabelledCase(PatientCase, Protocol):
    """What a case must have to be divided: SourceCase and PreparedCase have it."""

    @property
    def label_set(self) -> LabelSet: ...

    def label(self) -> np.ndarray:
        """Read the segmentation as class numbers, uint8 (x, y, z)."""
        ...


AnyCase = TypeVar("AnyCase", bound=LabelledCase)


@dataclass(frozen=True)
class SourceCase:
    """A Case with its segmentation read from the source, to divide what is not preprocessed."""

    case: Case

    @property
    def id(self) -> str:
        return self.case.id

    @property
    def patient(self) -> str:
        return self.case.patient

    @property
    def label_set(self) -> LabelSet:
        return self.case.label_set

    def label(self) -> np.ndarray:
        """Read the segmentation as class numbers, uint8 (x, y, z)."""
        if self.case.label is None:
            raise ValueError(f"{self.id} has no segmentation")
        values, _, _ = read_volume(self.case.label, self.case.header)
        return to_classes(values, self.case.convention, self.case.label, self.label_set)


def strata_of(cases: Sequence[LabelledCase]) -> dict[str, Stratum]:
    """Measure the tumours of every patient.

    Args:
        cases: Their segmentations are read one after the other.

    Returns:
        The stratum of each patient.
    """
    return _strata(cases, [_measure(case) for case in cases])


def strata_of_files(
    cases: Sequence[Case], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Stratum]:
    """Measure the tumours of every patient, as `strata_of`, on all cores.

    Args:
        cases: Cases as the layouts find them, all labelled.
        progress: Called with (cases done, cases in all).

    Returns:
        The stratum of each patient.

    Raises:
        UserError: A process that read a segmentation was killed, or a segmentation is faulty.
    """
    return _strata(cases, map_cases(_measure_file, cases, lost=_lost, progress=progress))


def describe_folds(
    cases: Sequence[PatientCase],
    strata: Mapping[str, Stratum],
    test_sets: Iterable[Sequence[str]],
) -> Iterator[dict[str, int]]:
    """Describe the test patients of every fold.

    Args:
        cases: All cases, of which those of test patients are counted.
        strata: The stratum of each patient.
        test_sets: The test patients of each fold.

    Yields:
        One row of a table for each fold.
    """
    for number, test in enumerate(test_sets):
        voxels = [strata[patient][1] for patient in test]
        yield {
            "fold": number,
            "patients": len(test),
            "cases": sum(case.patient in test for case in cases),
            "without ET": sum(not strata[patient][0] for patient in test),
            "tumour voxels, median": int(np.median(voxels)),
        }


def stratified_folds(strata: Mapping[str, Stratum], folds: int, seed: int) -> list[list[str]]:
    """Divide all patients into disjoint folds, alike in tumour volume and presence of ET.

    Patients without ET and then those with it, sorted by volume, are dealt in runs of `folds`, in
    random order within a run.

    Args:
        strata: The stratum of each patient.
        folds: How many folds.
        seed: Decides who falls into which fold.

    Returns:
        The sorted patients of each fold.

    Raises:
        UserError: There are fewer patients than folds.
    """
    if len(strata) < folds:
        raise UserError(
            f"data.folds = {folds}: more than the {len(strata)} patients; choose fewer folds"
        )
    rng = random.Random(seed)
    dealt: list[list[str]] = [[] for _ in range(folds)]
    ordered = sorted(strata, key=lambda patient: (strata[patient], patient))
    for start in range(0, len(ordered), folds):
        places = rng.sample(range(folds), folds)
        for patient, place in zip(ordered[start : start + folds], places, strict=False):
            dealt[place].append(patient)
    return [sorted(fold) for fold in dealt]


def stratified_sample(
    patients: Iterable[str], strata: Mapping[str, Stratum], wanted: int, seed: int
) -> list[str]:
    """Draw patients that are alike to the rest in tumour volume and presence of ET.

    The patients' order by stratum is cut into as many equal runs as are wanted, and one patient is
    drawn from each.

    Args:
        patients: Whom to draw from.
        strata: The stratum of each patient.
        wanted: How many patients; fewer are drawn where there are fewer.
        seed: Decides who is drawn.

    Returns:
        The patients in random order, so that a cap on their number is fair.
    """
    rng = random.Random(seed)
    ordered = sorted(patients, key=lambda patient: (strata[patient], patient))
    bounds = [round(place * len(ordered) / wanted) for place in range(wanted + 1)] if wanted else []
    chosen = [
        rng.choice(ordered[low:high]) for low, high in itertools.pairwise(bounds) if high > low
    ]
    return rng.sample(chosen, len(chosen))


def _strata(cases: Iterable[PatientCase], measures: Iterable[Stratum]) -> dict[str, Stratum]:
    grouped: dict[str, list[Stratum]] = {}
    for case, measure in zip(cases, measures, strict=True):
        grouped.setdefault(case.patient, []).append(measure)
    return {
        patient: (max(has_et for has_et, _ in strata), max(voxels for _, voxels in strata))
        for patient, strata in grouped.items()
    }


def _measure(case: LabelledCase) -> Stratum:
    """Tell whether a case has ET, and count its tumour voxels."""
    masks = region_dict(np.asarray(case.label()), case.label_set)
    return bool(masks["ET"].any()), int(np.count_nonzero(masks["WT"]))


def _measure_file(case: Case) -> Stratum:
    return _measure(SourceCase(case))


def _lost(case: Case) -> Stratum:
    raise UserError(
        f"{case.id}: not read, the process that read it or a case beside it was killed (memory?); "
        "free some memory and try again"
    )
