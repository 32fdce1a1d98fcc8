"""Paired comparison of arms: what the per-case tables of the trials say about a contrast.

docs/explanation/statistics.md says it in plain words. Numbers are in the unit of the tables, Dice
from 0 to 1; only text speaks of Dice points. A patient's cases are averaged first.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.intervals import rank_p
from segmamba.evaluation.patients import patient_means
from segmamba.studies.alpha_spending import FIRST_LOOK, level, repeated_p
from segmamba.studies.anova import Crossed, crossed
from segmamba.studies.by_seed import SEEDS_DECIDE, paired_by_seed
from segmamba.studies.hypothesis import MINUS, Contrast, PairwiseContrast
from segmamba.studies.metrics import Metric, metric_of
from segmamba.studies.results import Study
from segmamba.studies.scores import CaseScores, case_patients, case_scores, told_by_ids
from segmamba.studies.words import count

ONE_SEED = "one seed: no interval, because nothing shows how much training itself varies"
ONE_PATIENT = "one test patient: the interval covers other seeds, not other patients"
TOLD_BY_IDS = "patients are told by the ids of the cases: neither table nor study names them"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A contrast on one region: by how much `arm` is better than `versus`.

    It is `arm` minus `versus` where a higher score is better, and `versus` minus `arm` of HD95. The
    numbers are in the unit of the tables, NaN where the data cannot say.
    """

    arm: str
    versus: str
    """The arm that is subtracted; empty in a trend."""
    region: str
    score: str = "dice"
    """How the columns of the score begin in the per-case tables."""
    seeds: tuple[int, ...] = ()
    """The seeds that finished in every arm of the contrast; only these are compared."""
    cases: tuple[str, ...] = ()
    """Ids of the test cases that all these trials scored."""
    patients: tuple[str, ...] = ()
    """The patients of these cases."""
    seed_differences: tuple[float, ...] = ()
    """Mean over the patients, for each of `seeds`."""
    patient_differences: tuple[float, ...] = ()
    """Mean over the seeds and the patient's cases, for each of `patients`."""
    seed_means: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The mean score of each arm over these patients, for each of `seeds`."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How many planned runs of each arm failed; their scores are missing here."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """How many runs each arm was to have."""
    mean: float = math.nan
    low: float = math.nan
    """Lower end of the interval for other seeds and other patients."""
    high: float = math.nan
    """Upper end of that interval."""
    level: float = CONFIDENCE_LEVEL
    """Coverage of that interval."""
    p_value: float = math.nan
    standard_error: float = math.nan
    seed_sd: float = math.nan
    """Standard deviation of the paired difference between seeds."""
    patient_sd: float = math.nan
    """Standard deviation of the paired difference between patients."""
    rest_sd: float = math.nan
    """Standard deviation of what seeds and patients leave unexplained."""
    notes: tuple[str, ...] = ()
    """What was left out, and what the interval cannot cover."""
    layout: Crossed | None = None
    """The analysis of variance; None where there is no interval."""
    max_seeds: int = 0
    """The most seeds of a study that adds seeds; 0 where their number was fixed.

    The interval and the p of such a study hold although it looks at them after every seed.
    """

    def coverage(self, tests: int = 1) -> float:
        """The coverage at which the intervals of several tests hold together.

        Args:
            tests: How many contrasts share the 5 %.

        Returns:
            The coverage, in (0, 1); of a study that adds seeds, the one of its look, which is
            NaN before the first.
        """
        if not self.max_seeds:
            return CONFIDENCE_LEVEL if tests == 1 else 1 - (1 - CONFIDENCE_LEVEL) / tests
        if len(self.seeds) < FIRST_LOOK:
            return math.nan
        return 1 - level(self.max_seeds, min(len(self.seeds), self.max_seeds), tests)

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return f"{self.arm} {MINUS} {self.versus}" if self.versus else self.arm

    @property
    def metric(self) -> Metric:
        """What is compared."""
        return metric_of(self.score)

    @property
    def can_decide(self) -> bool:
        """Whether it covers other seeds and other patients, and no arm failed more often.

        The scores that failed runs would have had are missing: where they hit one arm more than the
        other, what is left flatters it.
        """
        enough = not self.max_seeds or len(self.seeds) >= FIRST_LOOK
        return self.layout is not None and len(self.patients) > 1 and enough and self.evenly_failed

    @property
    def evenly_failed(self) -> bool:
        """Whether every arm failed equally often, as a share of its planned runs."""
        shares = {
            failed / max(self.planned.get(arm, 1), 1) for arm, failed in self.failures.items()
        }
        return len(shares) <= 1

    @property
    def rank_p(self) -> float:
        """The p of Wilcoxon's signed-rank test over patients; NaN without any."""
        return rank_p(np.array(self.patient_differences))

    @property
    def seed_correlation(self) -> float:
        """Correlation of the two arms' seed means; NaN for a trend and below three seeds."""
        pair = list(self.seed_means.values())
        if len(pair) != 2 or len(self.seeds) < 3 or min(np.std(means) for means in pair) == 0:
            return math.nan
        return float(np.corrcoef(np.array(pair))[0, 1])

    def at_level(self, level: float) -> "Difference":
        """The same difference with the interval of another coverage.

        Args:
            level: The coverage, in (0, 1).

        Returns:
            The Difference; this one where it has no interval.
        """
        if self.layout is None:
            return self
        half = float(self.layout.half_width(level))
        return dataclasses.replace(self, low=self.mean - half, high=self.mean + half, level=level)


def difference(study: Study, arm: str, versus: str, region: str, score: str = "dice") -> Difference:
    """The paired difference of two arms, same seed and same patient.

    Args:
        study: The study.
        arm: The arm that is claimed to be better.
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
    """The weighted sum of the scores of a contrast's arms, same seed and same patient.

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
    result = Difference(
        arm=contrast.arm,
        versus=contrast.versus,
        region=region,
        score=score,
        notes=notes,
        failures={arm: failed_runs(study, arm) for arm in contrast.weights},
        planned={arm: planned_runs(study, arm) for arm in contrast.weights},
        max_seeds=study.max_seeds,
    )
    if not seeds:
        return result
    if study.test_sets_vary:
        result = dataclasses.replace(result, seeds=seeds)
        return _by_seed(result, scores, contrast.weights, case_patients(study))
    tables = [by_seed[seed] for by_seed in scores.values() for seed in seeds]
    cases = tuple(case for case in tables[0] if all(case in table for table in tables))
    dropped = len({case for table in tables for case in table}) - len(cases)
    if dropped:
        notes += (
            f"{count(dropped, 'test case')} left out: no {region} {result.metric.words} "
            "in every trial compared",
        )
    if not cases:
        return dataclasses.replace(result, notes=notes)
    if told_by_ids(study):
        notes += (TOLD_BY_IDS,)
    by_arm, patients = _patient_tables(scores, seeds, cases, case_patients(study))
    sign = 1 if result.metric.higher_is_better else -1
    d = sum(sign * w * by_arm[arm] for arm, w in contrast.weights.items()) + np.zeros(
        (len(seeds), len(patients))
    )
    result = dataclasses.replace(
        result,
        seeds=seeds,
        cases=cases,
        patients=patients,
        mean=float(d.mean()),
        seed_differences=tuple(d.mean(1).tolist()),
        patient_differences=tuple(d.mean(0).tolist()),
        seed_means={arm: tuple(table.mean(1).tolist()) for arm, table in by_arm.items()},
        notes=notes,
    )
    return _with_interval(result, d)


def _by_seed(
    result: Difference,
    scores: Mapping[str, Mapping[int, CaseScores]],
    weights: Mapping[str, float],
    patients: Mapping[str, str],
) -> Difference:
    """The Difference where each seed has its own test set: the seeds alone decide."""
    sign = 1 if result.metric.higher_is_better else -1
    signed = {arm: sign * weight for arm, weight in weights.items()}
    paired = paired_by_seed(scores, signed, result.seeds, patients)
    if not paired.means:
        return dataclasses.replace(result, seeds=())
    means = np.array(list(paired.means.values()))
    result = dataclasses.replace(
        result,
        seeds=tuple(paired.means),
        cases=paired.cases,
        patients=tuple(paired.of_patients),
        mean=float(means.mean()),
        seed_differences=tuple(means.tolist()),
        patient_differences=tuple(paired.of_patients.values()),
        seed_means=paired.arm_means,
        notes=(*result.notes, SEEDS_DECIDE),
    )
    return _with_interval(result, means[:, None])


def _patient_tables(
    scores: Mapping[str, Mapping[int, CaseScores]],
    seeds: Sequence[int],
    cases: Sequence[str],
    patients: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Each arm's scores, (S, P), and the patients."""
    whose, tables = [patients[case] for case in cases], {}
    names: tuple[str, ...] = ()
    for arm, by_seed in scores.items():
        table = np.array([[by_seed[seed][case] for case in cases] for seed in seeds])
        tables[arm], names = patient_means(table, whose)
    return tables, names


def _with_interval(result: Difference, d: np.ndarray) -> Difference:
    """The Difference with the interval, p and spreads of d (S, P), where there are two seeds."""
    if len(result.seeds) == 1:
        return dataclasses.replace(result, notes=(*result.notes, ONE_SEED))
    layout = crossed(d)
    seed_sd, patient_sd, rest_sd = (float(np.sqrt(v)) for v in layout.variances)
    p_value = float(layout.p_value())
    if result.max_seeds:
        p_value = repeated_p(p_value, result.max_seeds, len(result.seeds))
    return dataclasses.replace(
        result,
        p_value=p_value,
        standard_error=float(layout.standard_error),
        seed_sd=seed_sd,
        patient_sd=patient_sd,
        rest_sd=rest_sd,
        notes=(*result.notes, ONE_PATIENT) if len(result.patients) == 1 else result.notes,
        layout=layout,
    ).at_level(result.coverage())


def failed_runs(study: Study, arm: str) -> int:
    """How many planned runs of an arm ended in an error and have not finished since.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        The number. A run that was stopped, or cannot run on this machine, did not fail.
    """
    last = {(t.seed, t.fold): t.status for t in study.trials if t.arm == arm}
    return sum(status == "FAILED" for status in last.values())


def planned_runs(study: Study, arm: str) -> int:
    """How many runs an arm was to have.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        The number: that of its seeds, of which an arm may have its own, in all folds.
    """
    return len(study.seeds_of(arm)) * max(len(study.folds), 1)


def _missing_trials(
    study: Study, scores: Mapping[str, Mapping[int, CaseScores]]
) -> tuple[str, ...]:
    """One note for each arm that lacks planned trials, and one for each that lacks folds."""
    notes: tuple[str, ...] = ()
    tested = {
        (t.arm, t.seed, t.fold) for t in study.trials if t.status == "FINISHED" and t.test_cases
    }
    for arm, by_seed in scores.items():
        missing = [seed for seed in study.seeds_of(arm) if seed not in by_seed]
        if missing:
            notes += (
                f"{arm} has no tested trial of seed{'s' * (len(missing) != 1)} "
                f"{', '.join(map(str, missing))}",
            )
        folds = [
            f"{seed}/{fold}"
            for seed in study.seeds_of(arm)
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
