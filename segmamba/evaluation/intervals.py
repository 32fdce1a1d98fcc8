"""Confidence intervals: how far a mean over these cases may lie from one over others like them."""

import math
from collections.abc import Sequence

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL

RESAMPLES = 2000


def mean_interval(
    values: np.ndarray, patients: Sequence[str]
) -> tuple[float, float] | tuple[None, None]:
    """Compute the bootstrap interval of a mean over cases.

    Whole patients are drawn, since their time points are alike. The percentile method is used, with
    the same draws at every call; with few patients the interval is too narrow rather than too wide.

    Args:
        values: A number for each case, (cases,).
        patients: The patient of each case.

    Returns:
        (low, high) at CONFIDENCE_LEVEL; (None, None) with fewer than two patients.
    """
    who, place = np.unique(np.asarray(patients), return_inverse=True)
    if len(who) < 2:
        return None, None
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(len(who), size=(RESAMPLES, len(who)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return float(low), float(high)


def paired_interval(
    differences: np.ndarray, patients: Sequence[str]
) -> tuple[float, float | None, float | None]:
    """Compute the mean of paired differences with its t interval over patients.

    A patient's cases are averaged first.

    Args:
        differences: A number for each case, (cases,).
        patients: The patient of each case.

    Returns:
        (mean, low, high) at CONFIDENCE_LEVEL; low and high are None for fewer than two patients.
    """
    place = np.unique(np.asarray(patients), return_inverse=True)[1]
    by_patient = np.bincount(place, differences) / np.bincount(place)
    mean = by_patient.mean()
    if len(by_patient) < 2:
        return float(mean), None, None
    from scipy.special import stdtrit

    half = (
        stdtrit(len(by_patient) - 1, 0.5 + CONFIDENCE_LEVEL / 2)
        * by_patient.std(ddof=1)
        / math.sqrt(len(by_patient))
    )
    return float(mean), float(mean - half), float(mean + half)
