"""The interval of an arm's mean score, over other seeds and other patients."""

import numpy as np

from segmamba.evaluation.patients import patient_means
from segmamba.studies.anova import crossed
from segmamba.studies.metrics import metric_of
from segmamba.studies.results import Study
from segmamba.studies.scores import case_patients, case_scores, seed_scores, shared_cases


def mean_interval(study: Study, arm: str, column: str) -> tuple[float, float] | None:
    """The 95 % interval around the mean of `seed_scores`, by the routes of the differences.

    Args:
        study: The study.
        arm: Name of the arm.
        column: Name of the column, for example dice_WT.

    Returns:
        Its ends, in the unit of the column, cut where no score can lie; None with fewer than two
        seeds, or where the seeds share no patient. Where each seed tests other patients, the seeds
        alone decide.
    """
    scores = case_scores(study, arm, column)
    if len(scores) < 2:
        return None
    if study.test_sets_vary:
        table = np.array(list(seed_scores(study, arm, column).values()))[:, None]
    else:
        shared = shared_cases(study, column)[next(iter(scores))]
        own = frozenset.intersection(*map(frozenset, scores.values()))
        cases = sorted(shared or own)
        if not cases:
            return None
        whose = case_patients(study)
        values = np.array([[of[case] for case in cases] for of in scores.values()])
        table, _ = patient_means(values, [whose[case] for case in cases])
    layout = crossed(table)
    mean, half = float(layout.mean), float(layout.half_width())
    highest = metric_of(column.rpartition("_")[0]).highest
    return max(mean - half, 0.0), min(mean + half, highest)
