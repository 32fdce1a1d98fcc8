"""Differences where every seed divides the patients anew (data.split_by_seed).

The test sets of two seeds hold different patients, so that seeds and cases are not crossed. What
decides is the seed: the mean of each seed's paired differences, with a t interval over seeds. It
covers other divisions and other training sets too (Bouthillier et al. 2021, arXiv 2103.03098).
Divisions of one data set overlap, so that their means are not fully independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.studies.results import Study
from segmamba.studies.scores import CaseScores

SEEDS_DECIDE = (
    "the split varies with the seed, so each seed has its own test set: the interval is over the "
    "seeds' mean differences, and covers other divisions of these patients"
)


@dataclass(frozen=True)
class PairedBySeed:
    """Paired differences of seeds with test sets of their own."""

    means: dict[int, float]
    """Seed to its mean over the cases that all arms scored; seeds without any are left out."""
    of_cases: dict[str, float]
    """Case to its mean over the seeds that tested it."""


def test_sets_vary(study: Study) -> bool:
    """Whether the seeds of a study are tested on different patients.

    Args:
        study: The study.

    Returns:
        True where the split varies with the seed, unless all folds together test everybody or a
        file says who is tested.
    """
    varies = bool(study.config.get("data.split_by_seed"))
    return varies and not study.folds and not study.config.get("data.splits_file")


def paired_by_seed(
    scores: Mapping[str, Mapping[int, CaseScores]],
    weights: Mapping[str, float],
    seeds: Sequence[int],
) -> PairedBySeed:
    """Pair the arms within each seed.

    Args:
        scores: Arm to seed to case to score.
        weights: Arm to its weight in the contrast.
        seeds: The seeds that every arm has.

    Returns:
        The weighted sums of the scores, averaged over cases and over seeds.
    """
    means: dict[int, float] = {}
    of_cases: dict[str, list[float]] = {}
    for seed in seeds:
        tables = [scores[arm][seed] for arm in weights]
        shared = [case for case in tables[0] if all(case in table for table in tables)]
        values = [sum(w * scores[arm][seed][case] for arm, w in weights.items()) for case in shared]
        if values:
            means[seed] = float(np.mean(values))
        for case, value in zip(shared, values, strict=True):
            of_cases.setdefault(case, []).append(value)
    return PairedBySeed(means, {case: float(np.mean(v)) for case, v in of_cases.items()})
