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
from collections.abc import Sequence
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from figures import Figure, command_line, report
from segmamba.config import preset
from segmamba.data.case import Case
from segmamba.data.labels import MODALITIES
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.volumes import read_scan
from train_run import BRATS_SHAPE, Clock, write_cases

# torch and nnU-Net are imported where they are used: the processes that convert cases import this
# module too.
if TYPE_CHECKING:
    import torch

NOT_COUNTED = 1
DATASET = 1
NAME = f"Dataset{DATASET:03d}_Cases"
CONFIGURATION = "3d_fullres"
ENDING = ".nii"
FEWEST_CASES = 5  # nnU-Net trains on four of five folds
TRAINING_FOR_ONE_VALIDATION = 5  # nnU-Net: 250 iterations of training, 50 of validation


def write_raw(cases: Sequence[Case], folder: Path) -> None:
    """Write cases in nnU-Net's raw format: imagesTr, labelsTr and dataset.json in `folder`."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    with get_context("spawn").Pool(min(len(cases), os.cpu_count())) as pool:
        pool.starmap(write_raw_case, [(case, folder) for case in cases], chunksize=1)
    (folder / "dataset.json").write_text(json.dumps(dataset_json(cases), indent=1) + "\n")


def write_raw_case(case: Case, folder: Path) -> None:
    """Write a case: a file for each modality, in the order of MODALITIES, and its classes."""
    scan = read_scan(case)
    for channel, image in enumerate(scan.image):
        name = f"{case.id}_{channel:04d}{ENDING}"
        nibabel.save(nibabel.Nifti1Image(image, scan.affine), folder / "imagesTr" / name)
    label = nibabel.Nifti1Image(scan.label, scan.affine)
    nibabel.save(label, folder / "labelsTr" / f"{case.id}{ENDING}")


def dataset_json(cases: Sequence[Case]) -> dict[str, object]:
    """What nnU-Net must know of cases that `write_raw_case` writes."""
    return {
        "channel_names": {str(number): name for number, name in enumerate(MODALITIES)},
        "labels": {name: number for number, name in enumerate(cases[0].label_set.classes)},
        "numTraining": len(cases),
        "file_ending": ENDING,
    }


def plan_and_preprocess(
    cases: int, patch: Sequence[int] | None, batch_size: int | None
) -> dict[str, Any]:
    """Run nnU-Net's planner and preprocessing, as `nnUNetv2_plan_and_preprocess` does.

    Args:
        cases: How many there are.
        patch: Voxels of a patch along x, y and z; None leaves them to the planner.
        batch_size: Patches of a step; None leaves them to the planner.

    Returns:
        The plans.
    """
    import setuptools  # noqa: F401  # nnU-Net imports distutils, which is setuptools' since 3.12
    from nnunetv2.experiment_planning import plan_and_preprocess_api as steps
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    class Planner(ExperimentPlanner):
        """nnU-Net's planner, which may be told the patch and the batch."""

        def get_plans_for_configuration(
            self, spacing: Any, shape: Any, identifier: str, *others: Any, **named: Any
        ) -> dict[str, Any]:
            # The planner's first choice is a patch as large as the median case.
            if patch and identifier.endswith(CONFIGURATION):
                backwards = patch[::-1]  # nnU-Net's arrays are (z, y, x)
                shape = [backwards[axis] for axis in self.determine_transpose()[0]]
            plan = super().get_plans_for_configuration(spacing, shape, identifier, *others, **named)
            if patch and identifier.endswith(CONFIGURATION) and list(plan["patch_size"]) != shape:
                raise SystemExit(
                    f"--patch: of {shape} (z, y, x) nnU-Net's planner makes "
                    f"{list(map(int, plan['patch_size']))}; give that"
                )
            return plan | ({"batch_size": batch_size} if batch_size else {})

    processes = min(cases, os.cpu_count())
    steps.extract_fingerprints(
        [DATASET], num_processes=processes, verbose=False, show_progress_bar=False
    )
    plans, name = steps.plan_experiment_dataset(DATASET, Planner)
    steps.preprocess(
        [DATASET], name, (CONFIGURATION,), num_processes=[processes], show_progress_bar=False
    )
    return plans


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
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(root / name)  # read when nnU-Net is imported, or later
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
