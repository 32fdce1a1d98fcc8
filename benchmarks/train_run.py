"""A whole training run with everything on: speed, waiting, validation, logging, pictures.

    python benchmarks/train_run.py [--data DIR] [--labels mixed] [--preset paper] [--epochs 6] \\
        [--limit-s 480] [--set name=value ...] [--json FILE]

Loading by worker processes, augmentation, checkpoints, TensorBoard, pictures and, where it is
installed, MLflow run exactly as in `segmamba train`. The first two epochs (compilation, cuDNN's
choices, filling of caches) are not counted. The validation set always has `data.validation_cases`
cases: those of a small folder are taken several times, so that validation costs what it costs on a
large one. Without --data the cases are made up, of BraTS size: what they hold does not matter here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from figures import Figure, at_least, at_most, command_line, report
from segmamba.config import Config, parse_assignments, preset
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import Split, split_cases
from segmamba.orchestration.tracking.log import NoLog

# What imports torch is imported where it is used: the processes that write and prepare the cases
# import this module too.
if TYPE_CHECKING:
    import torch

    from segmamba.orchestration.tracking.run_log import RunLog
    from segmamba.training.run_folder import RunFolder

NOT_COUNTED = 2
BRATS_SHAPE = (240, 240, 155)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
GOALS: dict[str, tuple[Callable[[float, float, str], Figure], float]] = {
    "patches_per_s": (at_least, 78.0),
    "validation_share": (at_most, 0.08),
    "logging_share": (at_most, 0.01),
}
UNITS = {"patches_per_s": "/s", "gpu_peak_gib": "GiB"}


def write_cases(folder: Path, count: int, shape: tuple[int, ...] = BRATS_SHAPE) -> None:
    """Write `count` cases below `folder`, one process each."""
    with get_context("spawn").Pool(min(count, os.cpu_count())) as pool:
        pool.starmap(write_case, [(folder, number, shape) for number in range(count)], chunksize=1)


def write_case(folder: Path, number: int, shape: tuple[int, ...] = BRATS_SHAPE) -> None:
    """Write a case: an ellipsoid of noise with a nested ball in it."""
    rng = np.random.default_rng(number)
    grid = np.meshgrid(
        *(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True
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

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(
        self, owner: object, name: str, timer: Callable[[], float] = time.perf_counter
    ) -> None:
        """Replace `owner.name` by a function that does the same and is timed."""
        inner = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            began = timer()
            try:
                return inner(*arguments, **options)
            finally:
                self.seconds += timer() - began

        setattr(owner, name, timed)


def measure(
    config: Config, data: Split, results: Path, device: torch.device, epochs: int, limit_s: float
) -> dict[str, float]:
    """Rates, shares and memory over the counted epochs, by name."""
    from torch.utils.tensorboard import SummaryWriter

    from segmamba.training import run as run_module
    from segmamba.training.drawing import Pictures
    from segmamba.training.run_folder import RunFolder
    from segmamba.training.saving import saver_for

    folder = RunFolder(results / "SegMamba_Run01")
    scalars, pictures, saving = Clock(), Clock(), Clock()
    scalars.wrap(SummaryWriter, "add_scalar")
    pictures.wrap(run_module, "order_picture")
    saver = saver_for(device)
    saving.wrap(saver, "save")
    drawing, log = Pictures(folder), _log(config, data, results, folder, scalars)
    began, now = time.perf_counter(), 0.0
    rows: list[dict[str, float]] = []
    at_start: dict[str, float] = {}
    run = run_module.train_run(config, data, folder, device, pictures=drawing, saver=saver)
    for epoch in run:
        log.log_history([{"epoch": epoch.number} | epoch.metrics])
        now = time.perf_counter()
        m = {"time/validate_s": 0.0} | epoch.metrics
        print(
            f"epoch {epoch.number}: {m['time/train_s']:.1f} s of training, "
            f"{m['time/patches_per_s']:.1f} patches/s, waiting {m['time/data_wait_share']:.1%}, "
            f"validation {m['time/validate_s']:.1f} s",
            flush=True,
        )
        if epoch.number > NOT_COUNTED:
            rows.append(epoch.metrics)
        else:
            at_start = {
                "wall": now,
                "scalars": scalars.seconds,
                "pictures": pictures.seconds,
                "saving": saving.seconds,
            }
        if epoch.number >= epochs or now - began > limit_s:
            break
    run.close()
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
        "checkpoints_share": (saving.seconds - at_start["saving"]) / wall,
        "checkpoints_pictures_and_rest_share": (wall - train - validate) / wall,
        "gpu_peak_gib": max(m.get("memory/gpu_peak_gib", 0.0) for m in rows),
        "epochs_counted": len(rows),
    }


def _log(
    config: Config, data: Split, results: Path, folder: RunFolder, clock: Clock
) -> RunLog | NoLog:
    """The log of an MLflow run, with the time of its own thread on `clock`.

    Without MLflow it is a null object.
    """
    if importlib.util.find_spec("mlflow") is None:
        return NoLog()
    from segmamba.orchestration.tracking.run_log import RunLog, keyed_run
    from segmamba.orchestration.tracking.store import open_store

    store = open_store(results)
    clock.wrap(RunLog, "_send_epoch", time.thread_time)
    clock.wrap(RunLog, "log_history")
    log = RunLog(
        store,
        lambda: keyed_run(store, "benchmark", folder.root.name, {}),
        "benchmark",
        system_metrics=True,
    )
    log.log_config(config.to_flat_dict())
    log.log_data(data)
    return log


def main() -> None:
    parser = command_line(__doc__)
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
    options = parser.parse_args()

    from segmamba.device import choose_device
    from segmamba.training.compiling import compile_decision

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
            f"{source if options.data else 'made-up cases'}; {device}; "
            f"{compile_decision(config, device)[1]}; "
            f"MLflow {'on' if importlib.util.find_spec('mlflow') else 'not installed'}; "
            f"cases ready after {time.perf_counter() - began:.0f} s",
            flush=True,
        )
        values = measure(config, data, results, device, options.epochs, options.limit_s)
    figures = {}
    for name, value in values.items():
        unit = UNITS.get(name, "")
        if name in GOALS:
            compared, goal = GOALS[name]
            figures[name] = compared(value, goal, unit)
        else:
            figures[name] = Figure(value, unit)
    report(figures, options.json, device=str(device))


if __name__ == "__main__":
    main()
