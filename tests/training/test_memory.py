"""The estimate of training memory: its book-keeping, and against true training steps."""

import pytest
import torch

from segmamba.config import preset
from segmamba.training.memory import (
    _LiveStorages,
    estimate_training_memory,
    measure_training_memory,
)

MIB = 2**20


def test_live_storages_are_counted_from_birth_to_death_and_views_not_at_all():
    ignored = torch.zeros(MIB // 4)
    with _LiveStorages([ignored]) as live:
        ignored.add_(1)
        a = torch.zeros(MIB // 4)
        b = a.view(2, -1)[1]
        del a  # b holds its storage
        c = torch.zeros(MIB // 2)
        del b, c
        d = torch.zeros(MIB // 4)
    assert live.peak == 3 * MIB
    assert d.shape == (MIB // 4,)


def test_the_estimate_adds_up_and_follows_its_causes():
    demo = preset("demo")
    base = estimate_training_memory(demo, device_type="cpu")
    parts = base.as_dict()
    assert parts.pop("total") == base.total == sum(parts.values())
    assert base.optimizer == pytest.approx(
        2 * base.weights, rel=0.01
    )  # but for the norms' statistics
    double = estimate_training_memory(demo.changed({"train.batch_size": 4}), device_type="cpu")
    assert double.kept == pytest.approx(2 * base.kept, rel=0.02) and double.weights == base.weights
    half = estimate_training_memory(demo, device_type="cuda", dtype=torch.bfloat16)
    assert half.kept < 0.65 * base.kept
    accumulated = estimate_training_memory(
        demo.changed({"train.accumulation": 3}), device_type="cpu"
    )
    assert accumulated.kept == base.kept
    assert (
        accumulated.passing > base.passing
    )  # the gradients of the first pass are there during the second


def test_the_paper_preset_is_estimated_to_fit_a_24_gib_gpu_in_both_precisions():
    for dtype in (None, torch.bfloat16):
        assert (
            2 * 2**30
            < estimate_training_memory(preset("paper"), device_type="cuda", dtype=dtype).total
            < 24 * 2**30
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"train.batch_size": 4}, {"model.base_channels": 16}], ids=str
)
def test_the_estimate_is_near_what_training_takes_on_a_cpu(changes):
    config = preset("demo").changed(changes)
    measured = measure_training_memory(config, torch.device("cpu"))
    assert estimate_training_memory(config, device_type="cpu").total == pytest.approx(
        measured, rel=0.35
    )


@pytest.mark.gpu
def test_the_estimate_is_near_what_training_takes_on_a_gpu():
    from segmamba.device import mixed_dtype

    device, config = torch.device("cuda"), preset("paper")
    measured = measure_training_memory(config, device)
    estimate = estimate_training_memory(
        config, device_type="cuda", dtype=mixed_dtype(device, "mixed")
    )
    assert estimate.total == pytest.approx(measured, rel=0.15)
