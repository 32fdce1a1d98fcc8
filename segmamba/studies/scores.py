"""What the trials of an arm scored on the test set, case by case.

With folds, the patients of all folds are pooled: the score of a seed is the mean over the test
cases of all its folds. Differences, tables and figures all use this definition.
"""

import math
from typing import TypeAlias

import numpy as np

from segmamba.studies.results import CaseRow, Study, Trial

CaseScores: TypeAlias = dict[str, float]
"""Case id to score."""


def finished_trials(study: Study, arm: str) -> list[Trial]:
    """The trials of an arm that finished, in the study's order.

    Args:
        study: The study.
        arm: Name of the arm.

    Returns:
        The trials.
    """
    return [trial for trial in study.trials if trial.arm == arm and trial.status == "FINISHED"]


def case_scores(study: Study, arm: str, column: str) -> dict[int, CaseScores]:
    """One column of the per-case tables of an arm's finished trials, with the folds pooled.

    Args:
        study: The study.
        arm: Name of the arm.
        column: Name of the column, for example dice_WT.

    Returns:
        The scores of every case, by seed. Cases without a finite score are left out, as are seeds
        without any case. Where a trial ran twice, the later one counts.
    """
    scores: dict[int, CaseScores] = {}
    for trial in finished_trials(study, arm):
        of_trial = {
            row["case"]: float(row[column]) for row in trial.test_cases if _is_scored(row, column)
        }
        if of_trial:
            pooled = scores.get(trial.seed, {}) if study.folds else {}
            scores[trial.seed] = pooled | of_trial
    return scores


def _is_scored(row: CaseRow, column: str) -> bool:
    return row.get(column) is not None and math.isfinite(row[column])


def seed_scores(study: Study, arm: str, column: str) -> dict[int, float]:
    """The mean test score of every seed of an arm.

    Args:
        study: The study.
        arm: Name of the arm.
        column: Name of the column, for example dice_WT or hd95_mm_ET.

    Returns:
        The means by seed, in the unit of the column: over the test cases of all folds; without
        folds, the metric test/`column` of the trial, which is its mean over the test cases. Seeds
        without a finite mean are left out.
    """
    if study.folds:
        return {
            seed: float(np.mean(list(scores.values())))
            for seed, scores in case_scores(study, arm, column).items()
        }
    metrics = {
        trial.seed: trial.metrics.get(f"test/{column}") for trial in finished_trials(study, arm)
    }
    return {
        seed: value for seed, value in metrics.items() if value is not None and math.isfinite(value)
    }
