"""What nnU-Net's own trainer makes of the cases that `train_run.py` takes: its plan, loader, loop.

    python benchmarks/nnunet_trainer.py [--data DIR] [--labels mixed] [--cases 8] [--epochs 4] \\
        [--iterations 250] [--limit-s 480] [--patch 128 128 64] [--batch-size 2] [--json FILE]

It needs `pip install nnunetv2`. The cases become nnU-Net's raw format in a temporary folder; its
planner and its preprocessing (3d_fullres) make of them what they make of any data set, and its
trainer runs fewer and shorter epochs: augmentation by its processes, validation on patches in its
own proportion of one to five, the checkpoint and the picture of its progress. The first epoch
(compilation, cuDNN's choices) is not counted. nnU-Net's variables such as nnUNet_compile and
nnUNet_n_proc_DA hold here too. Its validation of whole cases follows once after the last epoch of
a training; it is not run.

Up to six batches and one of each process lie ready when an epoch begins: with few iterations they
flatter the loader.

The plan depends on the cases: those made up here are smaller than real ones once they are cropped.
--patch gives the planner the size of a patch in its place, along x, y and z.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from figures import Figure, command_line, report
from nnunet_cases import CONFIGURATION, NAME, plan_and_preprocess, set_folders, write_raw
from segmamba.config import preset
from segmamba.data.source import labelled_cases, source_changes
from train_run import BRATS_SHAPE, Clock, write_cases

# torch and nnU-Net are imported where they are used: the processes that convert cases import this
# module too.
if TYPE_CHECKING:
    import torch

NOT_COUNTED = 1
FEWEST_CASES = 5  # nnU-Net trains on four of five folds
TRAINING_FOR_ONE_VALIDATION = 5  # nnU-Net: 250 iterations of training, 50 of validation


class TimeIsOver(Exception):
    """The time for the epochs is over."""


def measure(
    plans_file: Path, device: torch.device, epochs: int, iterations: int, until: float
) -> tuple[dict[str, float], dict[str, object]]:
    """Train; return rates and times over the counted epochs, and what they depend on.

    Args:
        plans_file: nnU-Net's plans, beside which its dataset.json lies.
        device: Where it trains.
        epochs: Epochs at most.
        iterations: Steps of an epoch.
        until: Of `time.perf_counter`; the epoch in which it is reached is the last one, unless none
            is counted yet.

    Returns:
        (figures by name, what else a report must say).
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    class Trainer(nnUNetTrainer):
        """nnU-Net's trainer with a clock."""

        def on_epoch_start(self) -> None:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            self.steps_before, self.began = steps.seconds, time.perf_counter()
            super().on_epoch_start()

        def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
            self.trained, self.steps_after = time.perf_counter(), steps.seconds
            super().on_train_epoch_end(train_outputs)

        def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
            super().on_validation_epoch_end(val_outputs)
            self.validated = time.perf_counter()

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            rows.append(self.row(time.perf_counter()))
            print(
                f"epoch {len(rows)}: {rows[-1]['train_s']:.1f} s of training, "
                f"{rows[-1]['patches_per_s']:.1f} patches/s, "
                f"waiting {rows[-1]['waiting_share']:.1%}, "
                f"validation {rows[-1]['validation_s']:.1f} s, "
                f"all {rows[-1]['epoch_s']:.1f} s",
                flush=True,
            )
            if len(rows) > NOT_COUNTED and time.perf_counter() > until:
                raise TimeIsOver

        def row(self, now: float) -> dict[str, float]:
            """The figures of an epoch that ends now."""
            train_s = self.trained - self.began
            patches = self.num_iterations_per_epoch * self.batch_size
            patch = self.configuration_manager.patch_size
            row = {
                "patches_per_s": patches / train_s,
                "mvoxels_per_s": patches * float(np.prod(patch)) / train_s / 1e6,
                "patches_per_s_of_epoch": patches / (now - self.began),
                # A step ends with its loss on the CPU, so nothing of it is left to the next one.
                "waiting_share": 1 - (self.steps_after - self.steps_before) / train_s,
                "train_s": train_s,
                "validation_s": self.validated - self.trained,
                "epoch_s": now - self.began,
            }
            if device.type == "cuda":
                row["gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            return row

    steps, rows = Clock(), []
    torch.backends.cudnn.benchmark = True  # this and the threads as nnUNetv2_train sets them
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count())
    trainer = Trainer(
        json.loads(plans_file.read_text()) | {"continue_training": False},
        CONFIGURATION,
        0,
        json.loads((plans_file.parent / "dataset.json").read_text()),
        device,
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = max(1, iterations // TRAINING_FOR_ONE_VALIDATION)
    steps.wrap(trainer, "train_step")
    try:
        trainer.run_training()
    except TimeIsOver:
        trainer.on_train_end()
    counted = rows[NOT_COUNTED:]
    values = {name: float(np.mean([row[name] for row in counted])) for name in counted[0]}
    if "gpu_peak_gib" in values:
        values["gpu_peak_gib"] = max(row["gpu_peak_gib"] for row in counted)
    values |= {
        "validation_share": values["validation_s"] / values["epoch_s"],
        "first_epoch_s": rows[0]["epoch_s"],
        "epochs_counted": len(counted),
    }
    plan = trainer.configuration_manager
    return values, {
        "nnunetv2": version("nnunetv2"),
        "patch_zyx": [int(size) for size in plan.patch_size],
        "batch_size": trainer.batch_size,
        "iterations": iterations,
        "validation_iterations": trainer.num_val_iterations_per_epoch,
        "compiled": isinstance(trainer.network, torch._dynamo.OptimizedModule),
        "augmentation_processes": get_allowed_n_proc_DA(),
    }


def unit_of(name: str) -> str:
    """The unit of a figure, by its name."""
    endings = {"_per_s": "/s", "_per_s_of_epoch": "/s", "_s": "s", "_gib": "GiB"}
    return next((unit for ending, unit in endings.items() if name.endswith(ending)), "")


def arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--labels", default="mixed")
    parser.add_argument(
        "--cases", type=int, default=8, help="how many are made up, or taken of --data"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=250, help="steps of an epoch")
    parser.add_argument(
        "--limit-s",
        type=float,
        default=480.0,
        help="stop after the counted epoch in which so many seconds since the start are over",
    )
    parser.add_argument("--patch", type=int, nargs=3, metavar=("X", "Y", "Z"))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shape", type=int, nargs=3, default=BRATS_SHAPE, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if importlib.util.find_spec("nnunetv2") is None:
        parser.exit(2, "nnU-Net is not installed: pip install nnunetv2\n")
    if options.cases < FEWEST_CASES:
        parser.error(f"--cases: nnU-Net divides them into {FEWEST_CASES} folds; give as many")
    if options.epochs <= NOT_COUNTED:
        parser.error(f"--epochs: the first {NOT_COUNTED} is not counted; give more")
    return options


def main() -> None:
    options, began = arguments(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        set_folders(root)
        if not options.data:
            write_cases(root / "made_up", options.cases, tuple(options.shape))
        config = preset("paper").changed(
            source_changes(options.data or root / "made_up", options.labels)
        )
        found, source, _ = labelled_cases(config, root, lambda label: lambda done, total: None)
        cases = found[: options.cases]
        if len(cases) < FEWEST_CASES:
            raise SystemExit(f"{source}: {len(cases)} cases; nnU-Net needs {FEWEST_CASES}")
        write_raw(cases, root / "nnUNet_raw" / NAME)
        plans = plan_and_preprocess(len(cases), options.patch, options.batch_size)
        from segmamba.device import choose_device

        device, ready_s = choose_device(options.device), time.perf_counter() - began
        print(
            f"{len(cases)} cases, {source if options.data else 'made up'}; "
            f"{device}; cases ready after {ready_s:.0f} s",
            flush=True,
        )
        plans_file = root / "nnUNet_preprocessed" / NAME / f"{plans['plans_name']}.json"
        values, machine = measure(
            plans_file, device, options.epochs, options.iterations, began + options.limit_s
        )
    print("; ".join(f"{name} {value}" for name, value in machine.items()))
    values["cases_ready_s"] = ready_s
    figures = {name: Figure(value, unit_of(name)) for name, value in values.items()}
    report(figures, options.json, device=str(device), **machine)


if __name__ == "__main__":
    main()
