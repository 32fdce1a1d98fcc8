"""Does the data keep a GPU fed? From the cache to augmented batches on the device.

    python benchmarks/feed.py [--json FILE] [--step-ms 25] [--workers 4] [--device cpu]

Batches of 2 patches of 128x128x64 come from four 240x240x155 cases (noise in an ellipsoid, quick to
make) through worker processes and page-locked memory. A fake training step keeps the GPU busy for
--step-ms after each batch. Waiting is the share of the time in which the GPU has nothing queued
because the batch is not there, as `time/data_wait_share` of every training epoch measures it.

default:    flips, turns, zoom, brightness, contrast.
everything: all transforms on every patch, several times what nnU-Net's chances give.

It takes less than a minute on an H100; --device cpu only tries the script.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch

from figures import Figure, below, command_line, report
from segmamba.config import AugmentConfig, Config
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.case import Case
from segmamba.data.cases import find_cases
from segmamba.data.feed import DeviceFeed
from segmamba.data.labels import MODALITIES
from segmamba.data.loader import Batch, batches
from segmamba.data.preprocess import PreparedCase, prepare_cases
from segmamba.device import choose_device

SIZE, CASES = (240, 240, 155), 4
MOST_WAITING_PERCENT = 5.0
CHANCES = ("flip", "rotate90", "rotation", "elastic", "noise", "blur", "low_resolution", "gamma")
AUGMENTATIONS = {
    "default": AugmentConfig(),
    "everything": AugmentConfig(**{f"{name}_probability": 1.0 for name in CHANCES}),
}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--step-ms", type=float, default=25.0, help="length of the fake training step"
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--steps", type=int, default=200, help="batches that each figure is taken over"
    )
    options = parser.parse_args()
    device = choose_device(options.device)
    config = Config().changed({"data.workers": options.workers})
    with tempfile.TemporaryDirectory() as folder:
        cases = prepare_cases(
            write_cases(Path(folder) / "data"), Path(folder) / "cache", config.data
        )
        figures = measure(cases, config, device, options)
    print(f"{device}, {options.workers} workers, torch {torch.__version__}")
    report(figures, options.json, device=str(device), workers=options.workers)


def write_cases(folder: Path) -> list[Case]:
    """Write cases of noise in an ellipsoid with a ball of tumour, as plain .nii."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in SIZE]
    radius = sum(
        (a / s) ** 2
        for a, s in zip(
            np.meshgrid(*axes, indexing="ij", sparse=True), (0.6, 0.75, 0.9), strict=True
        )
    )
    affine, rng = np.diag([-1.0, -1.0, 1.0, 1.0]), np.random.default_rng(0)
    for number in range(CASES):
        name = f"BraTS20_Training_{number:03d}"
        (folder / name).mkdir(parents=True)
        volumes = {
            part: np.where(radius < 1, rng.integers(100, 900, SIZE, np.int16), np.int16(0))
            for part in ("t1", "t1ce", "t2", "flair")
        }
        volumes["seg"] = (
            np.digitize(radius, (0.02, 0.05, 0.1))
            .astype(np.uint8)
            .choose([4, 1, 2, 0])
            .astype(np.uint8)
        )
        for part, array in volumes.items():
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / name / f"{name}_{part}.nii")
    return find_cases(folder)


def measure(
    cases: list[PreparedCase], config: Config, device: torch.device, options: argparse.Namespace
) -> dict[str, Figure]:
    """The figures of the loader alone and of both augmentations."""
    figures = {"loader alone, patches": Figure(loader_rate(cases, config, options.steps), "/s")}
    for name, augmentation in AUGMENTATIONS.items():
        chosen = config.changed(
            {f"augment.{key}": value for key, value in vars(augmentation).items()}
        )
        host_ms, device_ms = augmentation_ms(cases, chosen, device, min(options.steps, 50))
        figures[f"{name}: augmentation of a batch, program"] = Figure(host_ms, "ms")
        figures[f"{name}: augmentation of a batch, device"] = Figure(device_ms, "ms")
        _, step_ms = feed(cases, chosen, device, options.steps, lambda: None)
        figures[f"{name}: fed and augmented, no training step, patches"] = Figure(
            2e3 / step_ms, "/s"
        )
        share, step_ms = feed(
            cases, chosen, device, options.steps, fake_step(device, options.step_ms)
        )
        figures[f"{name}: a step of {options.step_ms:g} ms with its data takes"] = Figure(
            step_ms, "ms"
        )
        figures[f"{name}: of that the device waits for data"] = below(
            100 * share, MOST_WAITING_PERCENT, "%"
        )
    return figures


def loader_rate(cases: list[PreparedCase], config: Config, steps: int) -> float:
    """Patches a second that the workers deliver to a program that does nothing else.

    They are page-locked where there is a GPU.
    """
    stream = batches(cases, config, first_epoch=1, pin_memory=torch.cuda.is_available())
    [next(stream) for _ in range(20)]
    started = time.perf_counter()
    [next(stream) for _ in range(steps)]
    rate = steps * config.train.batch_size / (time.perf_counter() - started)
    stream.close()
    return rate


def augmented(batch: Batch, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label of the batch, augmented as training does it."""
    plans = [
        draw_augmentation(config.augment, config.seed, int(e), int(i), len(MODALITIES))
        for e, i in zip(batch.epoch, batch.index, strict=True)
    ]
    return augment(batch.image, batch.label, plans)


def augmentation_ms(
    cases: list[PreparedCase], config: Config, device: torch.device, steps: int
) -> tuple[float, float]:
    """Median times of the program and of the device for one batch that lies on the device.

    No worker is running.
    """
    stream = DeviceFeed(
        batches(
            cases,
            config.changed({"data.workers": 0}),
            first_epoch=1,
            pin_memory=device.type == "cuda",
        ),
        device,
    )
    program, whole = [], []
    for _ in range(steps + 3):
        batch = next(stream)
        wait_for(device)
        started = time.perf_counter()
        augmented(batch, config)
        program.append(time.perf_counter() - started)
        wait_for(device)
        whole.append(time.perf_counter() - started)
    return 1e3 * statistics.median(program[3:]), 1e3 * statistics.median(whole[3:])


def feed(
    cases: list[PreparedCase],
    config: Config,
    device: torch.device,
    steps: int,
    step: Callable[[], None],
) -> tuple[float, float]:
    """Share of waiting and milliseconds a step, over `steps` steps after 20 that warm up."""
    stream = batches(cases, config, first_epoch=1, pin_memory=device.type == "cuda")
    fed = DeviceFeed(stream, device)
    for number in range(20 + steps):
        if number == 20:
            fed.waited_s()
            started = time.perf_counter()
        augmented(next(fed), config)
        step()
    waited = fed.waited_s()  # waits for the device
    seconds = time.perf_counter() - started
    stream.close()
    return waited / seconds, 1e3 * seconds / steps


def fake_step(device: torch.device, milliseconds: float) -> Callable[[], None]:
    """A function that keeps the device busy for so long; on a GPU it returns at once."""
    if device.type != "cuda":
        return lambda: time.sleep(milliseconds / 1e3)
    cycles = 20_000_000
    torch.cuda._sleep(cycles)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    torch.cuda._sleep(cycles)
    after.record()
    torch.cuda.synchronize()
    wanted = int(cycles * milliseconds / before.elapsed_time(after))
    return lambda: torch.cuda._sleep(wanted)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
