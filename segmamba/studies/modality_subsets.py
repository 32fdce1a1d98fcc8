"""The Dice of every arm with each subset of the modalities, where the test scored them."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from segmamba.data.labels import MODALITIES
from segmamba.evaluation.intervals import score_interval
from segmamba.evaluation.modality_subsets import LACKING, SUBSETS, subset_score
from segmamba.studies.contrasts import Difference, contrast_difference
from segmamba.studies.hypothesis import PairwiseContrast
from segmamba.studies.results import Study

REGION = "mean"
ALL = "all four"


class ArmMean(PairwiseContrast):
    """An arm's own score in the place of a difference."""

    @property
    def weights(self) -> dict[str, float]:
        """The arm alone."""
        return {self.arm: 1.0}


@dataclass(frozen=True, kw_only=True)
class SubsetRow:
    """The mean Dice of every arm with one subset, or with several that are averaged."""

    label: str
    """The modalities that are there, or how many are missing."""
    modalities: tuple[str, ...]
    """Those that are there; empty where subsets are averaged."""
    means: dict[str, Difference]
    """Arm to its mean with the interval over seeds and patients; with one seed, over patients for
    this one network."""
    differences: dict[str, Difference]
    """Arm to its difference to the baseline."""


def subset_rows(study: Study) -> list[SubsetRow]:
    """Collect what the study measured with each subset of the modalities.

    Args:
        study: The study.

    Returns:
        A row for each of the 15 subsets, the full set first, then one for each number of missing
        modalities, averaged over the subsets; [] where no trial was tested so.
    """
    missing = subset_score(SUBSETS[-1]) + f"_{REGION}"
    if not any(missing in row for trial in study.trials for row in trial.test_cases):
        return []
    single = [
        _row(
            study, ALL if subset == MODALITIES else ", ".join(subset), subset_score(subset), subset
        )
        for subset in SUBSETS
    ]
    averaged = [
        _row(study, f"mean of {lacked} missing", f"{name}_dice", ())
        for name, lacked in zip(LACKING, ("one", "two", "three"), strict=True)
    ]
    return [*single, *averaged]


def _label(subset: tuple[str, ...]) -> str:
    return ALL if subset == MODALITIES else ", ".join(subset)


def _row(study: Study, label: str, score: str, modalities: tuple[str, ...]) -> SubsetRow:
    return SubsetRow(
        label=label,
        modalities=modalities,
        means={arm: _arm_mean(study, arm, score) for arm in study.arms},
        differences={
            arm: contrast_difference(study, PairwiseContrast(arm, study.baseline), REGION, score)
            for arm in study.arms
            if arm != study.baseline
        },
    )


def _arm_mean(study: Study, arm: str, score: str) -> Difference:
    """An arm's mean with its interval, which a Dice cannot leave at 0 and 1."""
    found = contrast_difference(study, ArmMean(arm, ""), REGION, score)
    low, high = found.low, found.high
    if len(found.seeds) == 1:
        ends = score_interval(np.array(found.patient_differences), (0, 1))
        low, high = (math.nan if end is None else end for end in ends)
    if not (math.isfinite(low) and math.isfinite(high)):
        return found
    return dataclasses.replace(found, low=max(0.0, low), high=min(1.0, high))
