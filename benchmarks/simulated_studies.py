"""Simulated studies for verdicts.py and sequential_studies.py: tables of paired differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Draw = Callable[[tuple[int, ...]], np.ndarray]
"""Standardised noise of a shape."""


def normal(rng: np.random.Generator) -> Draw:
    """Normal noise."""
    return lambda shape: rng.standard_normal(shape, np.float32)


def heavy_tailed(rng: np.random.Generator) -> Draw:
    """Noise with outliers, such as missed lesions: t with 3 degrees of freedom, of variance 1."""
    return lambda shape: rng.standard_t(3, shape).astype(np.float32) / 3**0.5


def simulate(
    rng: np.random.Generator,
    draw: Draw,
    *,
    studies: int,
    arms: int,
    seed_sd: float,
    cases: int,
    seeds: int,
    case_sd: float,
    rest_sd: float,
    folds: int = 1,
) -> np.ndarray:
    """Simulate differences from the baseline without a true effect.

    Args:
        rng: Draws the runs' seed effects, which are normal.
        draw: Draws what varies from case to case.
        studies: Number of studies.
        arms: Arms beside the baseline.
        seed_sd: Standard deviation of one run's mean Dice, in Dice points.
        cases: Test cases.
        seeds: Seeds.
        case_sd: Standard deviation of the paired difference from case to case, in Dice points.
        rest_sd: Standard deviation of what is left of the paired difference.
        folds: Runs for each seed, each tested on its own share of the cases.

    Returns:
        Dice points, (studies, arms, seeds, cases).
    """
    run = rng.standard_normal((studies, arms + 1, seeds, folds), np.float32) * seed_sd
    run = np.repeat(run, cases // folds, axis=-1) if folds > 1 else run
    taste = draw((studies, arms + 1, 1, cases)) * (case_sd / 2**0.5)
    rest = draw((studies, arms + 1, seeds, cases)) * (rest_sd / 2**0.5)
    dice = run + taste + rest
    return dice[:, 1:] - dice[:, :1]
