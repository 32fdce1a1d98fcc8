"""How far a mean over these cases may lie from the mean over others like them."""

import math

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000


def mean_interval(values, patients):
    """(low, high) of the 95 % bootstrap interval of the mean; (None, None) with fewer than two patients.

    values: a number for each case; patients: whose case it is. Whole patients are drawn, since their time points are alike. Percentile
    method, the same draws at every call: with few patients it is too narrow rather than too wide.
    """
    who, place = np.unique(np.asarray(patients), return_inverse=True)
    if len(who) < 2:
        return None, None
    sums, counts = np.bincount(place, values), np.bincount(place)
    drawn = np.random.default_rng(0).integers(len(who), size=(RESAMPLES, len(who)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_interval(differences, patients):
    """(mean, low, high) of paired differences, a number for each case, with the 95 % t interval over patients.

    A patient's cases are averaged first. low and high are None for fewer than two patients.
    """
    place = np.unique(np.asarray(patients), return_inverse=True)[1]
    by_patient = np.bincount(place, differences) / np.bincount(place)
    if len(by_patient) < 2:
        return float(by_patient.mean()), None, None
    from scipy.special import stdtrit

    half = (
        stdtrit(len(by_patient) - 1, 0.5 + LEVEL / 2)
        * by_patient.std(ddof=1)
        / math.sqrt(len(by_patient))
    )
    return (
        float(by_patient.mean()),
        float(by_patient.mean() - half),
        float(by_patient.mean() + half),
    )
