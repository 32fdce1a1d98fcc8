"""How the arms stand to one another: which are not shown worse than the best, and their ranks.

Ranks move with the runs and the patients that happened to be drawn, so a table of means needs both.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.patients import patient_means
from segmamba.studies.anova import holm
from segmamba.studies.comparisons import differences_of
from segmamba.studies.contrasts import difference
from segmamba.studies.metrics import metric_of
from segmamba.studies.results import Study
from segmamba.studies.scores import case_patients, case_scores, seed_scores
from segmamba.studies.verdict import decide

SAMPLES = 2000
"""Bootstrap samples of seeds and patients; always the same draws."""


def split_column(column: str) -> tuple[str, str]:
    """The score and the region of a column, for example ("hd95_mm", "WT").

    Args:
        column: Name of the column.

    Returns:
        Both names.
    """
    score, _, region = column.rpartition("_")
    return score, region


def not_shown_worse(study: Study, column: str) -> set[str]:
    """The best arm by its mean, and every arm that is not shown to be worse than it.

    Args:
        study: The study.
        column: Name of a column of the per-case tables.

    Returns:
        Names of arms: an arm is missing where the paired difference to the best excludes 0 after
        Holm's adjustment over all arms, or where the first claim, on this column, shows another
        arm to be better. Empty with fewer than two measured arms.
    """
    score, region = split_column(column)
    sign = 1 if metric_of(score).higher_is_better else -1
    scores = {arm: seed_scores(study, arm, column) for arm in study.arms}
    means = {arm: sign * np.mean(list(of.values())) for arm, of in scores.items() if of}
    if len(means) < 2:
        return set()
    best = max(means, key=lambda arm: means[arm])
    rivals = [arm for arm in means if arm != best]
    gaps = [difference(study, best, arm, region, score) for arm in rivals]
    p_values = holm([gap.p_value if gap.can_decide else math.nan for gap in gaps])
    shown = {
        arm
        for arm, gap, p in zip(rivals, gaps, p_values, strict=True)
        if p < 1 - CONFIDENCE_LEVEL and gap.mean > 0
    }
    return means.keys() - shown - _beaten(study, score, region)


def _beaten(study: Study, score: str, region: str) -> set[str]:
    """The arms that the first claim shows another arm to be better than."""
    claim = study.hypothesis
    if claim.score != score or region not in claim.regions or not claim.contrasts:
        return set()
    if study.looks and not study.pooled_from:
        gained = [(c.versus, c.region) for c in study.looks[-1].contrasts if c.state == "gained"]
    else:
        decision = decide(differences_of(study, claim), claim)
        pairs = zip(decision.differences, decision.gained, strict=True)
        gained = [(difference.versus, difference.region) for difference, gain in pairs if gain]
    return {versus for versus, of_region in gained if versus and of_region == region}


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Where an arm stands among all arms, over bootstrap samples of seeds and patients."""

    arm: str
    first: float
    """Share of the samples in which it is the best, from 0 to 1."""
    low: int
    """The best rank that at least 2.5 % of the samples reach; 1 is the best arm."""
    high: int
    """The rank that at most 2.5 % of the samples exceed."""


def ranks(study: Study, column: str) -> list[Rank]:
    """How stable the order of the arms is.

    Seeds and patients that all arms share are drawn with replacement, the same for every arm.

    Args:
        study: The study.
        column: Name of a column of the per-case tables.

    Returns:
        A Rank for each arm that was measured, in the study's order; [] with fewer than two arms,
        where they share fewer than two seeds or two patients, or where each seed tests others.
    """
    arms, sampled = sampled_means(study, column)
    if not arms:
        return []
    sign = 1 if metric_of(split_column(column)[0]).higher_is_better else -1
    means = sign * sampled
    # An arm's rank is 1 plus the arms above it; equal means share the better rank.
    places = 1 + (means[:, None, :] > means[:, :, None]).sum(-1)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(places, [tail, 1 - tail], axis=0, method="nearest")
    return [
        Rank(arm=arm, first=float(np.mean(of == 1)), low=int(least), high=int(most))
        for arm, of, least, most in zip(arms, places.T, low, high, strict=True)
    ]


def sampled_means(study: Study, column: str) -> tuple[list[str], np.ndarray]:
    """The arms' means over bootstrap samples of the seeds and the patients that all arms share.

    Args:
        study: The study.
        column: Name of a column of the per-case tables.

    Returns:
        The arms that were measured, in the study's order, and their means, (SAMPLES, A), in the
        unit of the column; no arm where `ranks` gives none.
    """
    arms, table = _shared_table(study, column)
    if study.config.get("data.split_by_seed") or len(arms) < 2 or min(table.shape[1:]) < 2:
        return [], np.zeros((SAMPLES, 0))
    rng, (_, seeds, patients) = np.random.default_rng(0), table.shape
    draws = rng.multinomial(seeds, [1 / seeds] * seeds, SAMPLES) / seeds
    who = rng.multinomial(patients, [1 / patients] * patients, SAMPLES) / patients
    return arms, np.einsum("asp,ns,np->na", table, draws, who, optimize=True)


def _shared_table(study: Study, column: str) -> tuple[list[str], np.ndarray]:
    """The arms that were measured and their scores, (A, S, P), on what all of them share."""
    scores = {arm: case_scores(study, arm, column) for arm in study.arms}
    scores = {arm: by_seed for arm, by_seed in scores.items() if by_seed}
    seeds = [s for s in study.seeds if scores and all(s in of for of in scores.values())]
    tables = [scores[arm][seed] for arm in scores for seed in seeds]
    cases = [case for case in tables[0] if all(case in of for of in tables)] if tables else []
    if not cases:
        return [], np.zeros((0, 0, 0))
    values = [[[scores[arm][s][c] for c in cases] for s in seeds] for arm in scores]
    patients = case_patients(study)
    return list(scores), patient_means(np.array(values), [patients[c] for c in cases])[0]


@dataclass(frozen=True, kw_only=True)
class Outperforming:
    """P(A > B): how often one run of an arm beats one run of another (Bouthillier et al. 2021)."""

    share: float
    """Share of all pairs of a run of A and a run of B, from 0 to 1; ties count half."""
    pairs: int
    """How many pairs there are."""


def outperforms(study: Study, arm: str, versus: str, column: str) -> Outperforming | None:
    """How often a run of `arm` is better than a run of `versus`, each on all its test patients.

    Args:
        study: The study.
        arm: The arm A.
        versus: The arm B.
        column: Name of a column of the per-case tables.

    Returns:
        The share; None where one of them has no tested run.
    """
    sign = 1 if metric_of(split_column(column)[0]).higher_is_better else -1
    pairs = list(
        itertools.product(*(seed_scores(study, name, column).values() for name in (arm, versus)))
    )
    if not pairs:
        return None
    wins = [1.0 if sign * a > sign * b else 0.5 if a == b else 0.0 for a, b in pairs]
    return Outperforming(share=sum(wins) / len(wins), pairs=len(pairs))
