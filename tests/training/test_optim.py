import itertools
import math

import pytest
import torch

from segmamba.config import preset
from segmamba.models import build_model
from segmamba.training.optim import Optimizer, learning_rate

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


def test_the_polynomial_rate_is_nnu_nets_between_the_peak_and_the_least():
    config = SHORT.changed(
        {"optim.schedule": "polynomial", "optim.warmup_epochs": 0, "optim.lr": 1e-2}
    )
    rates = [learning_rate(step, config) for step in range(20)]
    assert rates[0] == 1e-2 and rates[19] == pytest.approx(1e-6)
    assert rates[8] == pytest.approx(1e-6 + (1e-2 - 1e-6) * (1 - 8 / 19) ** 0.9)
    straight = [learning_rate(step, config.changed({"optim.power": 1.0})) for step in range(20)]
    steps = [before - after for before, after in itertools.pairwise(straight)]
    assert steps == pytest.approx([steps[0]] * 19)


def test_sgd_moves_the_weights_by_nesterovs_rule_and_decays_those_that_decay():
    config = preset("demo").changed(
        {"model.base_channels": 4, "optim.name": "sgd", "optim.momentum": 0.9}
        | {"optim.weight_decay": 0.1, "optim.lr": 1e-2, "optim.min_lr": 0.0}
    )
    model = build_model(config.model)
    optimizer = Optimizer(model, config, torch.device("cpu"))
    state = optimizer.state_dict()["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in state] == [0.1, 0.0]
    weight = next(
        p for name, p in model.named_parameters() if name.endswith("weight") and p.ndim > 1
    )
    velocity, expected = torch.zeros_like(weight), weight.detach().clone()
    for _ in range(2):
        optimizer.backward(sum(parameter.sum() for parameter in model.parameters()))
        gradient = torch.ones_like(weight) + 0.1 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - 1e-2 * (gradient + 0.9 * velocity)
        optimizer.step(1e-2)
    assert torch.allclose(weight, expected, atol=1e-6)
