import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segmamba.config import AugmentConfig
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.feed import DeviceFeed, to_device
from segmamba.data.loader import Batch
from tests.tiny import CPU

CHANCES = ("flip", "rotate90", "rotation", "elastic", "noise", "blur", "low_resolution", "gamma")
EVERYTHING = AugmentConfig(**{f"{name}_probability": 1.0 for name in CHANCES})


def numbered_batches(count, *, pinned=False, before_each=lambda: None, side=16):
    """`count` Batches whose voxels are their number."""
    for number in range(1, count + 1):
        before_each()
        image = torch.full((2, 4, side, side, side), number, dtype=torch.float16)
        batch = Batch(
            image,
            torch.full((2, side, side, side), number % 4, dtype=torch.uint8),
            np.ones(2),
            np.arange(2),
            np.ones(2, bool),
            ["a", "b"],
        )
        yield batch.pin_memory() if pinned else batch


def test_every_batch_comes_once_in_order_as_float32():
    fed = list(DeviceFeed(numbered_batches(5), CPU))
    assert [float(batch.image.mean()) for batch in fed] == [1, 2, 3, 4, 5]
    assert all(
        batch.image.dtype == torch.float32 and batch.label.dtype == torch.uint8 for batch in fed
    )


def test_the_wait_is_what_the_batches_took_and_is_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("segmamba.data.feed.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def take(seconds):
        now[0] += seconds

    feed = DeviceFeed(numbered_batches(4, before_each=lambda: take(0.5)), CPU)
    next(feed), next(feed)
    assert feed.waited_s() == 1.0
    take(7.0)
    assert feed.waited_s() == 0, "the program's own time is no wait"
    next(feed)
    assert feed.waited_s() == 0.5


def test_what_is_sent_keeps_its_values_and_is_single_precision():
    there = to_device(np.array([[0.5, 2.0]]), CPU)
    assert there.dtype == torch.float32 and there.tolist() == [[0.5, 2.0]]
    assert to_device(np.array([3, 1]), CPU).dtype == torch.int64


@pytest.mark.gpu
def test_on_a_gpu_no_batch_is_overwritten_while_it_is_used_however_slow_the_gpu_is():
    feed, sums = DeviceFeed(numbered_batches(40, pinned=True, side=96), torch.device("cuda")), []
    for first in feed:
        second = next(feed)
        torch.cuda._sleep(20_000_000)  # about 10 ms: the program is far ahead of the GPU
        sums += [
            torch.stack([batch.image.double().mean(), batch.label.double().mean()])
            for batch in (first, second)
        ]
    assert torch.stack(sums).tolist() == [[n, n % 4] for n in range(1, 41)]


@pytest.mark.gpu
def test_on_a_gpu_the_wait_is_the_time_it_had_nothing_to_do():
    for seconds, low, high in ((0.0, 0.0, 0.1), (0.1, 0.6, 1.2)):
        feed = DeviceFeed(
            numbered_batches(20, pinned=True, before_each=lambda s=seconds: time.sleep(s)),
            torch.device("cuda"),
        )
        for _ in range(10):
            next(feed)
        feed.waited_s()
        for _ in range(10):
            next(feed)
            torch.cuda._sleep(20_000_000)
        assert low <= feed.waited_s() < high


@pytest.mark.gpu
@pytest.mark.parametrize("config", [AugmentConfig(), EVERYTHING], ids=["default", "everything"])
def test_augmentation_never_waits_for_the_gpu(config):
    image, label = (
        torch.randn(2, 4, 32, 32, 32, device="cuda"),
        torch.zeros(2, 32, 32, 32, dtype=torch.uint8, device="cuda"),
    )
    draws = [
        [draw_augmentation(config, 0, epoch, index, 4) for index in range(2)] for epoch in (1, 2, 3)
    ]
    augment(image, label, draws[0])  # first calls load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        for pair in draws[1:]:
            augment(image, label, pair)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_augmentation_on_a_gpu_is_that_on_a_cpu():
    config = AugmentConfig(
        rotation_probability=1.0,
        elastic_probability=1.0,
        blur_probability=1.0,
        low_resolution_probability=1.0,
    )
    torch.manual_seed(0)
    image, label = (
        torch.randn(2, 4, 32, 32, 32),
        torch.randint(0, 4, (2, 32, 32, 32)).to(torch.uint8),
    )
    draws = [draw_augmentation(config, 0, 1, index, 4) for index in range(2)]
    (on_cpu, labels), (on_gpu, gpu_labels) = (
        augment(image, label, draws),
        augment(image.cuda(), label.cuda(), draws),
    )
    assert (on_gpu.cpu() - on_cpu).abs().mean() < 1e-4 and (
        gpu_labels.cpu() != labels
    ).float().mean() < 1e-3
