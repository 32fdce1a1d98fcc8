"""What the trials of an arm scored on the test set: by case, by patient and by seed.

A patient's cases are averaged first, so that patients are the unit of every mean. With folds, the
patients of all folds are pooled: the score of a seed is the mean over the patients of all its
folds. Differences, tables and figures all use this definition.
"""

import functools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

from segmamba.data.case import patient_of
from segmamba.evaluation.patients import by_patient
from segmamba.studies.results import CaseRow, Study, Trial

CaseScores: TypeAlias = Mapping[str, float]
"""Case id to score."""
MEAN = "_mean"
"""How the columns end that are means over the regions."""
P = ParamSpec("P")
T = TypeVar("T")


def once(
    function: Callable[Concatenate[Study, P], T],
) -> Callable[Concatenate[Study, P], T]:
    """Compute a function of a study once for each Study, which never changes once it is made.

    A report asks for the same scores hundreds of times; of thousands of trials, that took minutes.
    """

    @functools.wraps(function)
    def kept(study: Study, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (f"{function.__module__}.{function.__qualname__}", args, *kwargs.items())
        if key in study.known:
            return cast("T", study.known[key])
        value = study.known[key] = function(study, *args, **kwargs)
        return value

    return kept


def finished_trials(study: Study, arm: str) -> list[Trial]:
    """The trials of an arm that finished, in the study's order.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        The trials.
    """
    return [trial for trial in study.trials if trial.arm == arm and trial.status == "FINISHED"]


@once
def case_patients(study: Study) -> Mapping[str, str]:
    """The patient of every tested case.

    Args:
        study: The study.

    Returns:
        Case to the patient that its row names; in tables of before 0.3, that the study names; where
        neither does, that the case's id tells.
    """
    patients: dict[str, str] = {}
    for trial in study.trials:
        for row in trial.test_cases:
            case = row["case"]
            if case not in patients:
                known = row.get("patient") or study.data.patients.get(case)
                patients[case] = known or patient_of(case)
    return patients


@once
def told_by_ids(study: Study) -> bool:
    """Whether nothing but the ids of some tested cases tells their patients.

    Args:
        study: The study.

    Returns:
        Whether neither the tables nor the study name them.
    """
    return any(
        not row.get("patient") and row["case"] not in study.data.patients
        for trial in study.trials
        for row in trial.test_cases
    )


@once
def case_scores(study: Study, arm: str, column: str) -> Mapping[int, CaseScores]:
    """One column of the per-case tables of an arm's finished trials, with the folds pooled.

    Args:
        study: The study.
        arm: Name of the arm.
        column: Name of the column, for example dice_WT; the mean over the regions of a score
            whose table has none, for example hd95_mm_mean, is made of theirs.

    Returns:
        The scores of every case, by seed. Cases without a finite score are left out, as are seeds
        without any case. Where a trial ran twice, the later one counts.
    """
    scores: dict[int, dict[str, float]] = {}
    for trial in finished_trials(study, arm):
        values = {row["case"]: row_score(row, column) for row in trial.test_cases}
        of_trial = {case: value for case, value in values.items() if math.isfinite(value)}
        if of_trial:
            pooled = scores.get(trial.seed, {}) if study.folds else {}
            scores[trial.seed] = pooled | of_trial
    return scores


def row_score(row: CaseRow, column: str) -> float:
    """One score of a row.

    Args:
        row: The row of a per-case table, or a trial's metrics of the test by the same names.
        column: Name of the column, as `case_scores` takes it.

    Returns:
        The score; NaN where the row has none.
    """
    value = row.get(column)
    if value is None and column.endswith(MEAN):
        prefix = column.removesuffix(MEAN) + "_"
        parts = [score for name, score in row.items() if _is_region(name, prefix)]
        value = float(np.mean(parts)) if parts and None not in parts else None
    return math.nan if value is None else float(value)


def _is_region(name: str, prefix: str) -> bool:
    """Whether a column is the score `prefix` of one region: no region's name has an underscore."""
    return name.startswith(prefix) and "_" not in name.removeprefix(prefix)


@once
def shared_cases(study: Study, column: str) -> Mapping[int, frozenset[str]]:
    """The cases that every arm scored with every seed; with one, where each seed has own splits.

    Args:
        study: The study.
        column: Name of the column.

    Returns:
        The ids, by the seeds that any arm was tested with; empty where the trials share none.
    """
    tables: dict[int, list[CaseScores]] = {}
    for arm in study.arms:
        for seed, table in case_scores(study, arm, column).items():
            tables.setdefault(seed, []).append(table)
    if study.test_sets_vary:
        return {seed: _common(of_seed) for seed, of_seed in tables.items()}
    return dict.fromkeys(tables, _common([one for of_seed in tables.values() for one in of_seed]))


def _common(tables: Sequence[CaseScores]) -> frozenset[str]:
    """The cases that are in every table; none where there is no table."""
    return frozenset.intersection(*map(frozenset, tables)) if tables else frozenset()


@once
def seed_scores(study: Study, arm: str, column: str) -> Mapping[int, float]:
    """The mean test score of every seed of an arm.

    Args:
        study: The study.
        arm: Name of the arm.
        column: Name of the column, for example dice_WT or hd95_mm_ET.

    Returns:
        The means by seed, in the unit of the column, over the patients that every tested seed of
        every arm scored, or over its own where they share none: a patient that one trial lacks is
        left out of all means, as it is of the differences. Where no table has the column, they are
        the metrics test/`column` of the trials. Seeds without a finite mean are left out.
    """
    scores = case_scores(study, arm, column)
    if not scores:
        return _metric_means(study, arm, column)
    patients = case_patients(study)
    shared = shared_cases(study, column)
    return {seed: _mean(table, shared[seed] or table, patients) for seed, table in scores.items()}


def trial_score(study: Study, trial: Trial, column: str) -> float:
    """The mean test score of one trial over its patients.

    Args:
        study: The study.
        trial: One of its trials.
        column: Name of the column.

    Returns:
        The mean; NaN where it was not tested.
    """
    values = {row["case"]: row_score(row, column) for row in trial.test_cases}
    finite = {case: value for case, value in values.items() if math.isfinite(value)}
    if finite:
        return _mean(finite, finite, case_patients(study))
    return math.nan if trial.test_cases else row_score(_tested(trial), column)


def _mean(scores: CaseScores, kept: Container[str], patients: Mapping[str, str]) -> float:
    """The mean over patients of the cases that are kept."""
    of_patient = by_patient({c: v for c, v in scores.items() if c in kept}, patients)
    return float(np.mean(list(of_patient.values())))


def _metric_means(study: Study, arm: str, column: str) -> dict[int, float]:
    """The metric test/`column` of every seed, where the tables lack the column."""
    means = {
        trial.seed: row_score(_tested(trial), column)
        for trial in finished_trials(study, arm)
        if not any(column in row for row in trial.test_cases)
    }
    return {seed: value for seed, value in means.items() if math.isfinite(value)}


def _tested(trial: Trial) -> dict[str, float]:
    """The metrics of a trial's test, by the names of the columns."""
    return {
        name.removeprefix("test/"): value
        for name, value in trial.metrics.items()
        if name.startswith("test/")
    }
