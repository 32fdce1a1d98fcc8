import math

import pytest

from segmamba.config import preset
from segmamba.training.optim import learning_rate

SHORT = preset("paper").changed(
    {"train.epochs": 4, "train.steps_per_epoch": 5, "optim.warmup_epochs": 2}
)


def test_hand_computed_rates():
    rates = [learning_rate(step, SHORT) for step in range(20)]
    assert rates[:10] == pytest.approx([1e-5 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(1e-4)
    assert rates[13] == pytest.approx(1e-6 + 0.5 * 9.9e-5 * (1 + math.cos(math.pi / 3)))
    assert rates[19] == pytest.approx(1e-6)


def test_the_first_step_is_never_wasted_on_a_rate_of_zero():
    assert learning_rate(0, preset("paper")) == pytest.approx(1e-4 / 2500)


def test_without_warm_up_the_cosine_starts_at_the_peak():
    assert learning_rate(0, SHORT.changed({"optim.warmup_epochs": 0})) == pytest.approx(1e-4)


def test_warm_up_may_last_the_whole_run():
    assert learning_rate(19, SHORT.changed({"optim.warmup_epochs": 4})) == pytest.approx(1e-4)
