"""Does the data keep a GPU fed? From the cache through worker processes and page-locked memory to augmented batches on the device.

    python benchmarks/feed.py [--json FILE] [--step-ms 25] [--workers 4] [--device cpu]

Batches of 2 patches of 128x128x64 from four 240x240x155 cases (noise in an ellipsoid: quick to make). A fake training step keeps the GPU
busy for --step-ms after each batch; waiting is the share of the time that the GPU has nothing queued because the batch is not there, as
`time/data_wait_share` of every training epoch measures it. "default": flips, turns, zoom, brightness, contrast. "everything": all
transforms on every patch, several times what nnU-Net's chances give. Under a minute on an H100; --device cpu only tries the script.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch

from segmamba.config import AugmentConfig, Config
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.cases import find_cases
from segmamba.data.feed import DeviceFeed
from segmamba.data.labels import MODALITIES
from segmamba.data.loader import batches
from segmamba.data.preprocess import prepare_cases
from segmamba.device import choose_device

SIZE, CASES, MOST_WAITING = (240, 240, 155), 4, 0.05
CHANCES = ("flip", "rotate90", "rotation", "elastic", "noise", "blur", "low_resolution", "gamma")
AUGMENTATIONS = {
    "default": AugmentConfig(),
    "everything": AugmentConfig(**{f"{name}_probability": 1.0 for name in CHANCES}),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    machine = {
        "platform": platform.platform(),
        "device": name,
        "cpus": os.cpu_count(),
        "workers": options.workers,
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for name, figure in figures.items():
        verdict = "" if figure["holds"] is None else "holds" if figure["holds"] else "MISSED"
        print(
            f"{name:64} {figure['value']:9.4g} {figure['unit']:4} {'goal ' + figure['goal'] if figure['goal'] else '':14} {verdict}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=1) + "\n"
        )


def write_cases(folder):
    """Cases of noise in an ellipsoid with a ball of tumour, as plain .nii; their Cases."""
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


def measure(cases, config, device, options):
    figures = {"loader alone, patches": figure(loader_rate(cases, config, options.steps), "/s")}
    for name, augmentation in AUGMENTATIONS.items():
        chosen = config.changed(
            {f"augment.{key}": value for key, value in vars(augmentation).items()}
        )
        host_ms, device_ms = augmentation_ms(cases, chosen, device, min(options.steps, 50))
        figures[f"{name}: augmentation of a batch, program"] = figure(host_ms, "ms")
        figures[f"{name}: augmentation of a batch, device"] = figure(device_ms, "ms")
        _, step_ms = feed(cases, chosen, device, options.steps, lambda: None)
        figures[f"{name}: fed and augmented, no training step, patches"] = figure(
            2e3 / step_ms, "/s"
        )
        share, step_ms = feed(
            cases, chosen, device, options.steps, fake_step(device, options.step_ms)
        )
        figures[f"{name}: a step of {options.step_ms:g} ms with its data takes"] = figure(
            step_ms, "ms"
        )
        figures[f"{name}: of that the device waits for data"] = figure(
            100 * share, "%", "< 5", share < MOST_WAITING
        )
    return figures


def figure(value, unit, goal="", holds=None):
    return {"value": value, "unit": unit, "goal": goal, "holds": holds}


def loader_rate(cases, config, steps):
    """Patches a second that the workers deliver to a program that does nothing else; page-locked where there is a GPU."""
    stream = batches(cases, config, first_epoch=1, pin_memory=torch.cuda.is_available())
    [next(stream) for _ in range(20)]
    started = time.perf_counter()
    [next(stream) for _ in range(steps)]
    rate = steps * config.train.batch_size / (time.perf_counter() - started)
    stream.close()
    return rate


def augmented(batch, config):
    plans = [
        draw_augmentation(config.augment, config.seed, int(e), int(i), len(MODALITIES))
        for e, i in zip(batch.epoch, batch.index, strict=True)
    ]
    return augment(batch.image, batch.label, plans)


def augmentation_ms(cases, config, device, steps):
    """Medians (of the program's time, of the device's) for one batch that lies on the device; no worker is running."""
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
    return tuple(1e3 * statistics.median(taken[3:]) for taken in (program, whole))


def feed(cases, config, device, steps, step):
    """(share of waiting, ms a step) over `steps` steps after 20 that warm up."""
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


def fake_step(device, milliseconds):
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


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
