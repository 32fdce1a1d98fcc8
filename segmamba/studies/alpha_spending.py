"""The levels at which a study that adds seeds may test its contrasts after each seed.

Whoever tests again after every seed at 5 % raises a false alarm in far more than 5 % of studies.
Here the 2.5 % of one side are spent over the looks: (0.025 / k) (n / N)^power of them up to the
look after n of at most N seeds, for k contrasts (Kim and DeMets 1987). alpha_spending.json holds
the levels; benchmarks/alpha_spending.py computes them by the recursion of Armitage, McPherson and
Rowe (1969), with a simulated correction for t tests, and writes the file.

The table holds for seeds alone, where the information grows with n. Patients add information that
is the same at every look; the looks then agree more closely and spend less.
"""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.errors import UserError

FIRST_LOOK = 3
"""Seeds before the first look: fewer show hardly how much training varies."""
MAX_SEEDS = range(4, 16)
"""The numbers of seeds N that a study may be limited to."""
CONTRASTS = (*range(1, 21), 24, 30, 40, 60, 100)
"""The numbers of contrasts k in the table; others take the next larger one's levels."""
ONE_SIDED = (1 - CONFIDENCE_LEVEL) / 2
"""What a study may spend on each side."""
TABLE_FILE = Path(__file__).with_name("alpha_spending.json")


def spending_power(max_seeds: int) -> float:
    """The power of n / N by which the 2.5 % are spent: the larger, the later.

    Power 2 is common in clinical trials. Later spending finds more and needs more seeds;
    benchmarks/README.md compares 2, 2.5 and 3 for studies of so few seeds.

    Args:
        max_seeds: N, the most seeds that the study may run.

    Returns:
        2.5 up to 10 seeds, 3 beyond.
    """
    return 2.5 if max_seeds <= 10 else 3.0


def level(max_seeds: int, seeds: int, contrasts: int = 1) -> float:
    """The two-sided level of one test at one look.

    Args:
        max_seeds: N, the most seeds that the study may run; 4 to 15.
        seeds: n, the seeds that the test is based on; 3 to N.
        contrasts: k, the contrasts that share the 5 %; 1 to 100.

    Returns:
        The p from which down the contrast is significant at this look.

    Raises:
        UserError: If the table has no such study.
    """
    if max_seeds not in MAX_SEEDS:
        raise UserError(
            f"--max-seeds {max_seeds}: a study that adds seeds is limited to "
            f"{MAX_SEEDS[0]} to {MAX_SEEDS[-1]} seeds"
        )
    if not FIRST_LOOK <= seeds <= max_seeds:
        raise UserError(f"a look after {seeds} of {max_seeds} seeds: the first is after 3 seeds")
    return _levels()[max_seeds, _row_of(contrasts)][seeds - FIRST_LOOK]


def _row_of(contrasts: int) -> int:
    """The smallest k of the table that is at least `contrasts`."""
    if not 1 <= contrasts <= CONTRASTS[-1]:
        raise UserError(
            f"a claim about {contrasts} contrasts and regions: a study that adds seeds can test "
            f"1 to {CONTRASTS[-1]}"
        )
    return next(k for k in CONTRASTS if k >= contrasts)


@cache
def _levels() -> dict[tuple[int, int], tuple[float, ...]]:
    """The levels of all looks by (max_seeds, contrasts)."""
    stored = json.loads(TABLE_FILE.read_text(encoding="utf-8"))["levels"]
    return {(int(n), int(k)): tuple(row) for n, rows in stored.items() for k, row in rows.items()}


def repeated_p(p_value: float, max_seeds: int, seeds: int) -> float:
    """A p that stays valid when it is looked at after every seed.

    Args:
        p_value: The two-sided p of the test over `seeds` seeds.
        max_seeds: The most seeds that the study may run.
        seeds: The seeds that the test is based on.

    Returns:
        The p divided by its look's share of 5 %: at most 0.05 exactly where the repeated interval
        excludes 0. NaN with fewer seeds than the first look has.
    """
    if seeds < FIRST_LOOK:
        return float("nan")
    return min(p_value * (1 - CONFIDENCE_LEVEL) / level(max_seeds, min(seeds, max_seeds)), 1.0)


def holm_of_looks(p_values: ArrayLike, max_seeds: int, seeds: Sequence[int]) -> list[float]:
    """Adjust repeated p values over several contrasts, step by step as Holm (1979) does.

    At each step the level of k contrasts stands in the place of 1 / k of the level of one (Maurer
    and Bretz 2013).

    Args:
        p_values: What `repeated_p` gave for each contrast; NaN where there was no test.
        max_seeds: The most seeds that the study may run.
        seeds: The seeds that each of them is based on.

    Returns:
        The adjusted p values: at most 0.05 exactly where the contrast is significant. NaN stays NaN
        and does not count as a test.
    """
    p = np.asarray(p_values, float)
    adjusted = np.full_like(p, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    largest = 0.0
    for step, i in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        share = level(max_seeds, seeds[i]) / level(max_seeds, seeds[i], len(tested) - step)
        largest = max(largest, min(float(p[i]) * share, 1.0))
        adjusted[i] = largest
    return adjusted.tolist()


def deciding_levels_of_looks(
    p_values: ArrayLike, max_seeds: int, seeds: Sequence[int]
) -> list[float]:
    """The coverage at which each interval excludes 0 exactly where `holm_of_looks` rejects.

    Args:
        p_values: What `repeated_p` gave for each contrast; NaN where there was no test.
        max_seeds: The most seeds that the study may run.
        seeds: The seeds that each of them is based on.

    Returns:
        The coverages in the order given; NaN where there was no test.
    """
    p, coverages = np.asarray(p_values, float), np.full(np.shape(p_values), np.nan)
    adjusted = np.asarray(holm_of_looks(p, max_seeds, seeds))
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    rejected = int(np.sum(adjusted[order] < 1 - CONFIDENCE_LEVEL))
    for rank, i in enumerate(order):
        left = len(order) - min(rank, rejected)
        coverages[i] = 1 - level(max_seeds, seeds[i], max(left, 1))
    return coverages.tolist()
