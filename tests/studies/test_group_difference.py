"""Two groups of runs that are not paired."""

import numpy as np
import pytest
from scipy import stats

from segmamba.studies.group_difference import group_difference


def test_where_only_runs_scatter_it_is_at_least_welchs_interval():
    rng = np.random.default_rng(0)
    a, b = (np.repeat(rng.normal(0.8, 0.01, (5, 1)), 30, axis=1) for _ in range(2))
    mean, low, high = group_difference(a, b)
    welch = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False).confidence_interval()
    assert mean == pytest.approx(a.mean() - b.mean())
    assert (low, high) == pytest.approx(tuple(welch), rel=1e-6)


def test_two_equal_groups_are_rarely_called_different_where_patients_alone_often_are():
    rng, alarms = np.random.default_rng(1), np.zeros(2)
    for _ in range(500):
        run = rng.normal(0, 1, (2, 5, 1))
        scores = run + rng.normal(0, 2, (1, 1, 60)) + rng.normal(0, 2, (2, 5, 60))
        _, low, high = group_difference(*scores)
        alone = stats.ttest_1samp((scores[0] - scores[1]).mean(0), 0).pvalue < 0.05
        alarms += [low > 0 or high < 0, alone]
    assert alarms[0] <= 0.065 * 500 and alarms[1] > 0.2 * 500


def test_one_run_or_one_patient_gives_no_interval():
    assert group_difference(np.ones((1, 9)), np.zeros((5, 9))) == (1.0, None, None)
    assert group_difference(np.ones((3, 1)), np.zeros((5, 1))) == (1.0, None, None)
