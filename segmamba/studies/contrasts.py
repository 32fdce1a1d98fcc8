"""Paired comparison of arms: what the per-case tables of the trials say about a contrast.

docs/explanation/statistics.md says it in plain words. All numbers are Dice from 0 to 1; only text
speaks of Dice points.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.data.label_sets import MEAN
from segmamba.studies.anova import Crossed, crossed, holm
from segmamba.studies.hypothesis import MINUS, Contrast, PairwiseContrast
from segmamba.studies.results import Study
from segmamba.studies.scores import CaseScores, case_scores

ONE_SEED = "one seed: no interval, because nothing shows how much training itself varies"
ONE_CASE = "one test case: the interval covers other seeds, not other patients"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A contrast on one region: `arm` minus `versus`.

    The numbers are Dice from 0 to 1, NaN where the data cannot say.
    """

    arm: str
    versus: str
    """The arm that is subtracted; empty in a trend."""
    region: str
    seeds: tuple[int, ...] = ()
    """The seeds that finished in every arm of the contrast; only these are compared."""
    cases: tuple[str, ...] = ()
    """Ids of the test cases that all these trials scored."""
    seed_differences: tuple[float, ...] = ()
    """Mean over the cases, for each of `seeds`."""
    case_differences: tuple[float, ...] = ()
    """Mean over the seeds, for each of `cases`."""
    mean: float = math.nan
    low: float = math.nan
    """Lower end of the 95 % interval for other seeds and other patients."""
    high: float = math.nan
    """Upper end of that interval."""
    p_value: float = math.nan
    standard_error: float = math.nan
    seed_sd: float = math.nan
    """Standard deviation of the paired difference between seeds."""
    case_sd: float = math.nan
    """Standard deviation of the paired difference between patients."""
    rest_sd: float = math.nan
    """Standard deviation of what seeds and patients leave unexplained."""
    notes: tuple[str, ...] = ()
    """What was left out, and what the interval cannot cover."""
    layout: Crossed | None = None
    """The analysis of variance; None where there is no interval."""

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return f"{self.arm} {MINUS} {self.versus}" if self.versus else self.arm


def difference(study: Study, arm: str, versus: str, region: str, score: str = "dice") -> Difference:
    """The paired difference of two arms, same seed and same case.

    Args:
        study: The study.
        arm: The arm that is claimed to score higher.
        versus: The arm that is subtracted.
        region: mean, or one of `study.data.regions`.
        score: The score in the per-case table.

    Returns:
        The Difference `arm` minus `versus`.
    """
    return contrast_difference(study, PairwiseContrast(arm, versus), region, score)


def contrast_difference(
    study: Study, contrast: Contrast, region: str, score: str = "dice"
) -> Difference:
    """The weighted sum of the scores of a contrast's arms, same seed and same case.

    Args:
        study: The study.
        contrast: The arms and their weights.
        region: mean, or one of `study.data.regions`.
        score: The score in the per-case table.

    Returns:
        The Difference, with notes on trials and cases that are missing.
    """
    scores = {arm: case_scores(study, arm, f"{score}_{region}") for arm in contrast.weights}
    seeds = tuple(
        seed for seed in study.seeds if all(seed in by_seed for by_seed in scores.values())
    )
    notes = _missing_trials(study, scores)
    result = Difference(arm=contrast.arm, versus=contrast.versus, region=region, notes=notes)
    if not seeds:
        return result
    tables = [by_seed[seed] for by_seed in scores.values() for seed in seeds]
    cases = tuple(case for case in tables[0] if all(case in table for table in tables))
    dropped = len({case for table in tables for case in table}) - len(cases)
    if dropped:
        notes += (
            f"{count(dropped, 'test case')} left out: no {region} Dice in every trial compared",
        )
    if not cases:
        return dataclasses.replace(result, notes=notes)
    d = _paired(scores, contrast.weights, seeds, cases)
    result = dataclasses.replace(
        result,
        seeds=seeds,
        cases=cases,
        mean=float(d.mean()),
        seed_differences=tuple(d.mean(1).tolist()),
        case_differences=tuple(d.mean(0).tolist()),
        notes=notes,
    )
    return _with_interval(result, d)


def _paired(
    scores: Mapping[str, Mapping[int, CaseScores]],
    weights: Mapping[str, float],
    seeds: Sequence[int],
    cases: Sequence[str],
) -> np.ndarray:
    """The weighted sums of the arms' scores, (S, C)."""
    return np.array(
        [
            [sum(w * scores[arm][seed][case] for arm, w in weights.items()) for case in cases]
            for seed in seeds
        ]
    )


def _with_interval(result: Difference, d: np.ndarray) -> Difference:
    """The Difference with the interval, p and spreads of d (S, C), where there are two seeds."""
    if len(result.seeds) == 1:
        return dataclasses.replace(result, notes=(*result.notes, ONE_SEED))
    layout = crossed(d)
    seed_sd, case_sd, rest_sd = (float(np.sqrt(v)) for v in layout.variances)
    half = float(layout.half_width())
    return dataclasses.replace(
        result,
        low=result.mean - half,
        high=result.mean + half,
        p_value=float(layout.p_value()),
        standard_error=float(layout.standard_error),
        seed_sd=seed_sd,
        case_sd=case_sd,
        rest_sd=rest_sd,
        notes=(*result.notes, ONE_CASE) if len(result.cases) == 1 else result.notes,
        layout=layout,
    )


def _missing_trials(
    study: Study, scores: Mapping[str, Mapping[int, CaseScores]]
) -> tuple[str, ...]:
    """One note for each arm that lacks planned trials, and one for each that lacks folds."""
    notes: tuple[str, ...] = ()
    tested = {
        (t.arm, t.seed, t.fold) for t in study.trials if t.status == "FINISHED" and t.test_cases
    }
    for arm, by_seed in scores.items():
        missing = [seed for seed in study.seeds if seed not in by_seed]
        if missing:
            notes += (
                f"{arm} has no tested trial of seed{'s' * (len(missing) != 1)} "
                f"{', '.join(map(str, missing))}",
            )
        folds = [
            f"{seed}/{fold}"
            for seed in study.seeds
            if seed not in missing
            for fold in study.folds
            if (arm, seed, fold) not in tested
        ]
        if folds:
            notes += (
                f"{arm} has no tested trial of seed/fold {', '.join(folds)}: "
                "its patients are left out for every seed",
            )
    return notes


@dataclass(frozen=True, kw_only=True)
class ContrastResult:
    """The differences of one contrast on every region."""

    arm: str
    versus: str
    regions: dict[str, Difference]
    """The Difference on each region."""
    p_holm: float = math.nan
    """p on the region that decides, adjusted over its family.

    The other regions are descriptive and have none.
    """
    decides: bool = False
    """Whether the study's first claim is about this contrast."""

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return next(iter(self.regions.values())).label


def compare_arms(study: Study) -> tuple[ContrastResult, ...]:
    """Compare what the claims name, and every arm with the baseline.

    Holm's adjustment is over a family: the contrasts of one claim, or all arms against the
    baseline. A claim about a single contrast needs no adjustment and gets none. A claim's contrast
    that is also an arm against the baseline stands among those.

    Args:
        study: The study.

    Returns:
        The results: those of the claims in the study's order, then those against the baseline.
    """
    decides = study.hypothesis.regions[0]
    asked = {contrast.label for contrast in study.hypothesis.contrasts}
    baseline = [
        PairwiseContrast(arm, study.baseline) for arm in study.arms if arm != study.baseline
    ]
    shown = {contrast.label for contrast in baseline}
    results: list[ContrastResult] = []
    for claim in study.claims:
        family = [contrast for contrast in claim.contrasts if contrast.label not in shown]
        shown |= {contrast.label for contrast in family}
        results += _family(study, family, decides, asked, adjusted=len(family) > 1)
    return (*results, *_family(study, baseline, decides, asked, adjusted=True))


def _family(
    study: Study, family: Sequence[Contrast], decides: str, asked: Iterable[str], *, adjusted: bool
) -> list[ContrastResult]:
    """The results of contrasts whose p on the region `decides` are adjusted together."""
    regions = (*study.data.regions, MEAN)
    differences = [
        {r: contrast_difference(study, c, r, study.hypothesis.score) for r in regions}
        for c in family
    ]
    p_values = [regions[decides].p_value for regions in differences]
    p_holm = holm(p_values) if adjusted else [math.nan] * len(family)
    return [
        ContrastResult(
            arm=c.arm, versus=c.versus, regions=regions, p_holm=p, decides=c.label in asked
        )
        for c, regions, p in zip(family, differences, p_holm, strict=True)
    ]


def points(dice: float | None, *, signed: bool = False) -> str:
    """Dice as text in Dice points.

    Args:
        dice: Dice from 0 to 1, or a difference of such.
        signed: Whether a positive number gets a plus sign.

    Returns:
        One decimal with a proper minus sign; an en dash for None and NaN.
    """
    if dice is None or not math.isfinite(dice):
        return "\N{EN DASH}"
    rounded = round(100 * dice, 1) + 0.0  # no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.1f}".replace("-", MINUS)


def count(number: int, thing: str) -> str:
    """A number and its noun, in the plural where it is due: 1 seed, 3 seeds.

    Args:
        number: How many.
        thing: The noun in the singular.

    Returns:
        The text.
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"
