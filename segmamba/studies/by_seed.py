"""Differences where every seed divides the patients anew (data.split_by_seed).

The test sets of two seeds hold different patients, so that seeds and cases are not crossed. What
decides is the seed: the mean of each seed's paired differences, with a t interval over seeds. It
covers other divisions and other training sets too (Bouthillier et al. 2021, arXiv 2103.03098).
Divisions of one data set overlap, so that their means are not fully independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.evaluation.patients import patient_means
from segmamba.studies.scores import CaseScores

SEEDS_DECIDE = (
    "the split varies with the seed, so each seed has its own test set: the interval is over the "
    "seeds' mean differences, and covers other divisions of these patients"
)


@dataclass(frozen=True)
class PairedBySeed:
    """Paired differences of seeds with test sets of their own."""

    means: dict[int, float]
    """Seed to its mean over patients; seeds without a case that all arms scored are left out."""
    of_patients: dict[str, float]
    """Patient to the mean over the seeds that tested it."""
    arm_means: dict[str, tuple[float, ...]]
    """Arm to its mean score over the patients of each of the seeds."""
    cases: tuple[str, ...]
    """Every case that counts for some seed."""


def paired_by_seed(
    scores: Mapping[str, Mapping[int, CaseScores]],
    weights: Mapping[str, float],
    seeds: Sequence[int],
    patients: Mapping[str, str],
) -> PairedBySeed:
    """Pair the arms within each seed, a patient's cases averaged first.

    Args:
        scores: Arm to seed to case to score.
        weights: Arm to its weight in the contrast.
        seeds: The seeds that every arm has.
        patients: Case to patient.

    Returns:
        The weighted sums of the scores, averaged over patients and over seeds.
    """
    means: dict[int, float] = {}
    of_patients: dict[str, list[float]] = {}
    arm_means: dict[str, list[float]] = {arm: [] for arm in weights}
    cases: dict[str, None] = {}
    for seed in seeds:
        tables = [scores[arm][seed] for arm in weights]
        shared = [case for case in tables[0] if all(case in table for table in tables)]
        if not shared:
            continue
        cases |= dict.fromkeys(shared)
        table = np.array([[by_case[case] for case in shared] for by_case in tables])
        of_arms, names = patient_means(table, [patients[case] for case in shared])
        paired = np.array(list(weights.values())) @ of_arms
        means[seed] = float(paired.mean())
        for name, value in zip(names, paired.tolist(), strict=True):
            of_patients.setdefault(name, []).append(value)
        for arm, mean in zip(weights, of_arms.mean(1).tolist(), strict=True):
            arm_means[arm].append(mean)
    return PairedBySeed(
        means,
        {name: float(np.mean(values)) for name, values in of_patients.items()},
        {arm: tuple(values) for arm, values in arm_means.items()},
        tuple(cases),
    )
