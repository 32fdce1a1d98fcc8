"""A whole training run with everything on: patches/s, waiting for data, validation, logging, pictures.

    python benchmarks/train_run.py [--data DIR] [--labels mixed] [--preset paper] [--epochs 6] [--limit-s 480] [--set name=value ...] [--json FILE]

Loading by worker processes, augmentation, checkpoints, TensorBoard, pictures and, where it is installed, MLflow, exactly as
`segmamba train` runs them. The first two epochs (compilation, cuDNN's choices, filling of caches) are not counted. validation always has
`data.validation_cases` cases: a small folder's are taken several times, so that validation costs what it costs on a large one.
Without --data, made-up cases of BraTS size: what they hold does not matter here.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import nibabel
import numpy as np

from segmamba.config import parse_assignments, preset
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import split_cases
from segmamba.orchestration.single import NoLog

# What imports torch is imported where it is used: the processes that write and prepare the cases import this module too.

NOT_COUNTED = 2
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
GOALS = {"patches_per_s": 70.0, "validation_share": 0.20, "logging_share": 0.01}


def write_cases(folder, count):
    """`count` cases of BraTS size below `folder`, one process each."""
    with get_context("spawn").Pool(min(count, os.cpu_count())) as pool:
        pool.starmap(write_case, [(folder, number) for number in range(count)], chunksize=1)


def write_case(folder, number, shape=(240, 240, 155)):
    """An ellipsoid of noise with a nested ball in it."""
    rng, grid = (
        np.random.default_rng(number),
        np.meshgrid(
            *(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True
        ),
    )
    brain = sum(x**2 for x in grid) < 0.42
    distance = np.sqrt(
        sum(
            (x - np.float32(centre)) ** 2
            for x, centre in zip(grid, rng.uniform(-0.25, 0.25, 3), strict=True)
        )
    )
    label = (
        np.select([distance < 0.08, distance < 0.13, distance < 0.25], [1, 4, 2], 0).astype(
            np.uint8
        )
        * brain
    )
    name = f"BraTS20_Training_{number:03d}"
    (folder / name).mkdir(parents=True)
    for suffix in ("t1", "t1ce", "t2", "flair"):
        image = brain * (rng.integers(200, 400, shape, np.int16) + np.int16(80) * label)
        nibabel.save(nibabel.Nifti1Image(image, AFFINE), folder / name / f"{name}_{suffix}.nii")
    nibabel.save(nibabel.Nifti1Image(label, AFFINE), folder / name / f"{name}_seg.nii")


class Clock:
    """Seconds spent in functions that it wraps."""

    def __init__(self):
        self.seconds = 0.0

    def wrap(self, owner, name, timer=time.perf_counter):
        inner = getattr(owner, name)

        def timed(*arguments, **options):
            began = timer()
            try:
                return inner(*arguments, **options)
            finally:
                self.seconds += timer() - began

        setattr(owner, name, timed)


def measure(config, data, results, device, epochs, limit_s):
    """{name: value} over the counted epochs."""
    from torch.utils.tensorboard import SummaryWriter

    from segmamba.training import run as run_module
    from segmamba.training.drawing import Pictures
    from segmamba.training.run_folder import RunFolder

    folder = RunFolder(results / "SegMamba_Run01")
    scalars, pictures = Clock(), Clock()
    scalars.wrap(SummaryWriter, "add_scalar")
    pictures.wrap(run_module, "order_picture")
    drawing, log = Pictures(folder), _log(config, data, results, folder, scalars)
    began, rows, at_start = time.perf_counter(), [], {}
    for epoch in run_module.train_run(config, data, folder, device, pictures=drawing):
        log.log_epoch(epoch.metrics, epoch.number)
        now = time.perf_counter()
        m = {"time/validate_s": 0.0} | epoch.metrics
        print(
            f"epoch {epoch.number}: {m['time/train_s']:.1f} s of training, {m['time/patches_per_s']:.1f} patches/s, "
            f"waiting {m['time/data_wait_share']:.1%}, validation {m['time/validate_s']:.1f} s",
            flush=True,
        )
        if epoch.number > NOT_COUNTED:
            rows.append(epoch.metrics)
        else:
            at_start = {"wall": now, "scalars": scalars.seconds, "pictures": pictures.seconds}
        if epoch.number >= epochs or now - began > limit_s:
            break
    log.close()
    drawing.close()
    if not rows:
        raise SystemExit(
            f"no epoch after the first {NOT_COUNTED} ended within the limit; raise --limit-s"
        )
    wall, train = now - at_start["wall"], sum(m["time/train_s"] for m in rows)
    validate = sum(m.get("time/validate_s", 0.0) for m in rows)
    return {
        "patches_per_s": float(np.mean([m["time/patches_per_s"] for m in rows])),
        "waiting_share": float(np.mean([m["time/data_wait_share"] for m in rows])),
        "validation_share": validate / wall,
        "logging_share": (scalars.seconds - at_start["scalars"]) / wall,
        "pictures_share": (pictures.seconds - at_start["pictures"]) / wall,
        "checkpoints_and_rest_share": (wall - train - validate) / wall,
        "gpu_peak_gib": max(m.get("memory/gpu_peak_gib", 0.0) for m in rows),
        "epochs_counted": len(rows),
    }


def _log(config, data, results, folder, clock):
    """The MLflow run's RunLog, its own thread's time on `clock`; a null object where MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        return NoLog()
    from segmamba.orchestration.tracking.run_log import RunLog, keyed_run
    from segmamba.orchestration.tracking.store import open_store, store_uri

    uri = store_uri(results)
    experiment = open_store(uri, results)
    clock.wrap(RunLog, "_send_epoch", time.thread_time)
    clock.wrap(RunLog, "log_epoch")
    log = RunLog(
        uri,
        lambda client: keyed_run(client, experiment, "benchmark", folder.root.name, {}),
        "benchmark",
        system_metrics=True,
    )
    log.log_config(config.to_flat_dict())
    log.log_data(data)
    return log


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--labels", default="mixed")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--limit-s",
        type=float,
        default=480.0,
        help="stop after the epoch in which so many seconds are over",
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()

    import torch

    from segmamba.device import choose_device
    from segmamba.training.step import compile_decision

    began, device = time.perf_counter(), choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        if not options.data:
            write_cases(results / "made_up", 8)
        config = preset(options.preset).changed(
            source_changes(options.data or results / "made_up", options.labels)
            | parse_assignments(options.set)
        )
        cases, source, _ = labelled_cases(config, results, lambda label: lambda done, total: None)
        data = split_cases(prepare_cases(cases, results / "cache", config.data), config.data)
        data = dataclasses.replace(
            data,
            validation=list(
                itertools.islice(itertools.cycle(data.validation), config.data.validation_cases)
            ),
        )
        print(
            f"{source if options.data else 'made-up cases'}; {device}; {compile_decision(config, device)[1]}; MLflow "
            f"{'on' if importlib.util.find_spec('mlflow') else 'not installed'}; "
            f"cases ready after {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        found = measure(config, data, results, device, options.epochs, options.limit_s)
    figures = {}
    for name, value in found.items():
        goal = GOALS.get(name)
        holds = (
            None
            if goal is None
            else bool(value >= goal if name == "patches_per_s" else value <= goal)
        )
        figures[name] = {"value": value, "unit": "", "goal": goal, "holds": holds}
        print(
            f"{name:28}{value:10.3f}"
            + (
                ""
                if goal is None
                else f"   goal {'>=' if name == 'patches_per_s' else '<='} {goal:g}"
            )
        )
    if options.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        options.json.write_text(
            json.dumps(
                {"figures": figures, "machine": {"device": name, "torch": torch.__version__}},
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
