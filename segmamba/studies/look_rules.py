"""The rules of a look, on arrays: which contrasts gain, and how likely the others are decided.

sequential.py applies them to the trials of a study, benchmarks/verdicts.py to thousands of
simulated ones.

Legend: arrays are (..., m), the m contrasts of a claim.
"""

import numpy as np
from numpy.typing import ArrayLike

from segmamba.studies.alpha_spending import level
from segmamba.studies.anova import Crossed

FUTILITY_LOOK = 4
"""Seeds before a contrast may be given up: after 3 the spread is known too badly."""
HOPELESS = 0.10
"""Conditional power below which a contrast gets no further seeds."""


def gain(
    p_value: ArrayLike,
    mean: ArrayLike,
    levels: ArrayLike,
    *,
    gained: ArrayLike,
    alive: ArrayLike,
    margin: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which contrasts have gained after a look: Holm's steps with the levels of the look.

    Every contrast that gains leaves its share to the others (Maurer and Bretz 2013); one that was
    dropped keeps its share.

    Args:
        p_value: Two-sided p of every contrast; NaN where it is not tested.
        mean: The estimates, in Dice.
        levels: (m + 1, m) or (m + 1, 1): the level of every contrast where k contrasts share the
            5 %, by k; row 0 is not used.
        gained: Which have gained at an earlier look.
        alive: Which may gain at this one.
        margin: Smallest Dice that matters.

    Returns:
        Which have gained now or earlier, and the level that each was compared with last.
    """
    p, means, shared_by = np.asarray(p_value), np.asarray(mean), np.asarray(levels)
    won, may_gain = np.array(gained, bool), np.asarray(alive, bool)
    used, tests = np.broadcast_to(shared_by[1], p.shape).copy(), p.shape[-1]
    for _ in range(tests):
        left = np.maximum(tests - won.sum(-1, keepdims=True), 1)
        shared = np.take_along_axis(
            np.broadcast_to(shared_by, (*p.shape[:-1], tests + 1, tests)), left[..., None], -2
        )[..., 0, :]
        open_ = may_gain & ~won
        used = np.where(open_, shared, used)
        new = open_ & (p <= shared) & (means >= margin)
        if not new.any():
            break
        won |= new
    return won, used


def conditional_power(
    layout: Crossed, *, more: int, max_seeds: int, margin: float, alike: bool
) -> np.ndarray:
    """How likely a contrast is decided by the last seed if estimate and spread stay.

    The mean of the seeds to come is drawn around the present estimate with the present spread
    between seeds, as badly as that is known (t with n - 1 degrees of freedom).

    Args:
        layout: The analysis of variance of the seeds so far.
        more: Seeds that can still come.
        max_seeds: The most seeds of the study.
        margin: Smallest Dice that matters.
        alike: Whether the claim is that the arms are alike, so that intervals are compared with
            +-margin on both sides; otherwise whether the contrast gains or falls below the margin.

    Returns:
        Probabilities of the leading shape of the layout; 0 or 1 where nothing can move.
    """
    from scipy.special import stdtr, stdtrit

    n, mean = layout.seeds, layout.mean
    last = n + more
    if last == n:
        return np.zeros_like(mean)
    seed_variance = layout.ms_seed / layout.patients
    patient_variance = layout.variances[1] / layout.patients
    quantile = stdtrit(last - 1, 1 - level(max_seeds, last) / 2)
    half = quantile * np.sqrt(seed_variance / last + patient_variance)
    move = np.sqrt(seed_variance * (1 / n - 1 / last))

    def below(limit: ArrayLike) -> np.ndarray:
        """P(the last mean < limit)."""
        gap = np.asarray(limit) - mean
        still = np.where(gap > 0, np.inf, -np.inf)
        return stdtr(n - 1, np.divide(gap, move, out=still, where=move > 0))

    if alike:
        inner, outer = np.maximum(margin - half, 0), margin + half
        return below(inner) - below(-inner) + 1 - below(outer) + below(-outer)
    return 1 - below(np.maximum(half, margin)) + below(margin - half)
