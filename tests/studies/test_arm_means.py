"""The interval of an arm's mean score."""

from segmamba.studies.arm_means import mean_interval
from segmamba.studies.metrics import METRICS, metric_of
from tests.studies.synthetic import synthetic_study


def test_an_interval_ends_where_scores_do():
    arms = {"a": 0.0, "b": 0.0}
    apart = synthetic_study(arms, seeds=2, cases=2, case_sd=0.3, epochs=1)
    ends = [mean_interval(apart, arm, f"dice_{region}") for arm in arms for region in ("ET", "WT")]
    assert {0.0, 1.0} <= {end for pair in ends for end in pair}
    low, high = mean_interval(synthetic_study(arms, epochs=1), "a", "dice_WT")
    assert 0 < low < high < 1
    assert mean_interval(synthetic_study(arms, seeds=1, epochs=1), "a", "dice_WT") is None


def test_distances_end_at_no_largest_value():
    assert metric_of("last_hd95_mm").highest == float("inf")
    assert {m.highest for m in METRICS.values() if m.scale == 100} == {1.0}
