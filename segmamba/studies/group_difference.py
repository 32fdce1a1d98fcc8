"""The difference of two groups of trained networks, over other networks and other patients.

The networks of the groups are not paired: each group has runs of its own. An interval over patients
alone asks whether these networks differ, and calls two equal groups different in about 22 % of
studies where runs scatter by one Dice point.

Legend: a (R, P) and b (Q, P) hold the scores of R and Q runs on the same P patients.
"""

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.intervals import PairedMean


def group_difference(a: np.ndarray, b: np.ndarray) -> PairedMean:
    """The mean of a minus that of b, with an interval that allows for runs and patients.

    It is the widest of three t intervals, as for paired seeds: over runs by Welch (1947), with a
    variance for each group; over patients; and with both variances added, which counts what runs
    and patients leave unexplained twice.

    Args:
        a: Scores of the runs of one group on each patient, (R, P).
        b: Scores of the runs of the other group on the same patients, (Q, P).

    Returns:
        (mean, low, high) at CONFIDENCE_LEVEL; low and high are None with fewer than two runs in a
        group, or with one patient.
    """
    mean = float(a.mean() - b.mean())
    if min(len(a), len(b), a.shape[1]) < 2:
        return mean, None, None
    from scipy.special import stdtrit

    parts = [group.mean(1).var(ddof=1) / len(group) for group in (a, b)]
    runs = sum(parts)
    spread = sum(part**2 / (len(g) - 1) for part, g in zip(parts, (a, b), strict=True))
    runs_df = runs**2 / spread if spread > 0 else min(len(a), len(b)) - 1
    patients_df = a.shape[1] - 1
    patients = (a.mean(0) - b.mean(0)).var(ddof=1) / a.shape[1]
    both = runs + patients
    shares = runs**2 / runs_df + patients**2 / patients_df
    both_df = both**2 / shares if shares > 0 else patients_df
    half = max(
        float(np.sqrt(variance) * stdtrit(df, 0.5 + CONFIDENCE_LEVEL / 2))
        for variance, df in ((runs, runs_df), (patients, patients_df), (both, both_df))
    )
    return mean, mean - half, mean + half
