"""nnU-Net's own trainer on the folds of our cross-validation, each for a given time.

    python benchmarks/nnunet_folds.py --data DIR [--labels mixed] [--folds 5] --seconds 75 \\
        --output DIR [--patch X Y Z] [--ours STUDY --arms ARM ...] [--json FILE]

It needs `pip install nnunetv2`. The folds are those of

    python experiments/ablate_recipe.py --data DIR --labels mixed --preset quick --folds 5

made by the same function: a fold's nnU-Net learns from the training cases of our trials of that
fold, is given their validation cases as its own and predicts their test cases.

nnU-Net plans and preprocesses all cases once, as it does for its own cross-validation. What the
folds share is what its planner looks at, spacings and sizes after cropping; intensities are
normalised case by case. It learns the regions, as it does for BraTS (3d_fullres).

A fold trains until --seconds are over since its training began, with the start of its loaders and
compilation (nnUNet_compile=false does without; nnUNet_n_proc_DA says how many processes augment).
The learning rate falls by nnU-Net's polynomial over this time, at every step. The training is one
long epoch: nnU-Net's validation, its checkpoints and its picture, of which nothing would be used,
take none of the time. The last weights predict the test cases as nnU-Net predicts: windows that
overlap by half, Gaussian weights, mirror images. --seed draws the first weights; nnU-Net seeds
neither its loader nor its augmentation.

OUTPUT/predictions holds CASE.nii.gz of all folds, OUTPUT/evaluation their scores, OUTPUT/nnUNet_*
what nnU-Net keeps, its logs among it. The same command goes on with the first fold that is not
predicted yet.

--ours names the folder of a study of those folds, for example Results/ablate_recipe_Run01. The
trials of each of its --arms (seed 0) predict the same cases into OUTPUT/ours/ARM, by

    segmamba predict --input OUTPUT/test_fold0.json --output OUTPUT/ours/ARM --labels brats2023 \\
        --checkpoint STUDY/trials/ARM_seed0_fold0

and so on, and the comparison is that of

    segmamba compare OUTPUT/predictions OUTPUT/ours/ARM --truth DIR --labels mixed \\
        --labels-b brats2023 --output OUTPUT/comparison/ARM
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from figures import Figure, command_line, report
from nnunet_cases import (
    CONFIGURATION,
    ENDING,
    NAME,
    dataset_json,
    plan_and_preprocess,
    set_folders,
    write_raw,
)
from segmamba.config import preset
from segmamba.data.case import Case
from segmamba.data.label_sets import MEAN
from segmamba.data.labels import MODALITIES
from segmamba.data.source import FoundData, prepare_split, source_changes
from segmamba.files import write_json

# torch and nnU-Net are imported where they are used: the processes that convert cases import this
# module too.
if TYPE_CHECKING:
    import torch

RULE = "brats-legacy"
SETTINGS = ("data", "labels", "preset", "folds", "seconds", "seed", "patch", "batch_size")
"""Options that all folds of an output folder have in common."""
POWER = 0.9  # of the polynomial rate, as nnU-Net's PolyLRScheduler has it
LINE_EVERY = 100  # steps


def study_folds(options: argparse.Namespace) -> tuple[FoundData, list[dict[str, list[str]]]]:
    """Find the cases and divide them as a study does.

    Args:
        options: Of the command line: data, labels, preset, folds and output.

    Returns:
        The cases, and the ids of each fold's cases by "train", "val" and "test".
    """
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.orchestration.engine.planning import splits_of

    base = preset(options.preset).changed(source_changes(options.data, options.labels))
    data = prepare_split(base, options.output, steps=lambda label: lambda done, total: None)
    splits = splits_of(data, StudyOptions(folds=options.folds), data.resolved(base))
    return data.found, [
        {
            name: [case.id for case in cases]
            for name, cases in (
                ("train", split.train),
                ("val", split.validation),
                ("test", split.test),
            )
        }
        for split in splits.values()
    ]


def preprocess(
    cases: Sequence[Case], folds: Sequence[dict[str, list[str]]], options: argparse.Namespace
) -> Path:
    """Have nnU-Net plan and preprocess the cases, unless it has; return its file of plans."""
    folder = options.output / "nnUNet_preprocessed" / NAME
    splits = folder / "splits_final.json"
    raw = options.output / "nnUNet_raw" / NAME
    if not splits.exists():  # it is written last
        if not (raw / "dataset.json").exists():
            write_raw(cases, raw, regions=True)
        plan_and_preprocess(len(cases), options.patch, options.batch_size)
        write_json(splits, [{"train": fold["train"], "val": fold["val"]} for fold in folds])
    return folder / "nnUNetPlans.json"


class TimeIsOver(Exception):
    """The time for the training is over."""


def train(plans_file: Path, fold: int, device: torch.device, seconds: float) -> tuple[Any, dict]:
    """Train a fold for a given time.

    Args:
        plans_file: nnU-Net's plans, beside which its dataset.json lies.
        fold: Its number in splits_final.json.
        device: Where it trains.
        seconds: From the start of the training to the end of its last step, which may exceed them.

    Returns:
        nnU-Net's trainer, and what is to be said of the training.
    """
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Trainer(nnUNetTrainer):
        """nnU-Net's trainer with a time in place of a number of epochs."""

        def on_train_start(self) -> None:
            self.began = time.perf_counter()
            super().on_train_start()

        def train_step(self, batch: dict) -> dict:
            elapsed = time.perf_counter() - self.began
            if elapsed >= seconds:
                raise TimeIsOver
            rate = self.initial_lr * (1 - elapsed / seconds) ** POWER
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            result = super().train_step(batch)  # ends with its loss on the CPU
            losses.append(float(result["loss"]))
            ends.append(time.perf_counter() - self.began)
            if len(ends) % LINE_EVERY == 0:
                self.print_to_log_file(
                    f"fold {fold}: {len(ends)} steps in {ends[-1]:.0f} s, "
                    f"loss {np.mean(losses[-LINE_EVERY:]):.3f}, rate {rate:.2e}"
                )
            return result

    losses: list[float] = []
    ends: list[float] = []
    torch.backends.cudnn.benchmark = True  # this and the threads as nnUNetv2_train sets them
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count())
    trainer = Trainer(
        json.loads(plans_file.read_text(encoding="utf-8")) | {"continue_training": False},
        CONFIGURATION,
        fold,
        json.loads((plans_file.parent / "dataset.json").read_text(encoding="utf-8")),
        device,
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, sys.maxsize
    trainer.disable_checkpointing = True
    try:
        trainer.run_training()
    except TimeIsOver:
        trainer.on_train_end()
    if not ends:
        raise SystemExit(f"--seconds {seconds:g}: over before the first step; give more")
    plan = trainer.configuration_manager
    return trainer, {
        "iterations": len(ends),
        "train_s": ends[-1],
        "first_step_s": ends[0],
        "ms_per_step": 1000 * (ends[-1] - ends[0]) / max(1, len(ends) - 1),
        "last_loss": float(np.mean(losses[-LINE_EVERY:])),
        "patch_zyx": [int(size) for size in plan.patch_size],
        "batch_size": trainer.batch_size,
        "compiled": isinstance(trainer.network, torch._dynamo.OptimizedModule),
    }


def predict(trainer: Any, ids: Sequence[str], raw: Path, temporary: Path, target: Path) -> None:
    """Predict cases as nnU-Net does by default, with the weights that a trainer has now.

    Args:
        trainer: nnU-Net's.
        ids: The cases.
        raw: nnU-Net's folder of raw cases.
        temporary: Where nnU-Net writes.
        target: Folder of CASE.nii.gz; a file appears there when all are whole.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network = getattr(trainer.network, "_orig_mod", trainer.network)  # nnU-Net predicts uncompiled
    network.eval()
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [network.state_dict()],
        trainer.dataset_json | {"file_ending": ".nii.gz"},
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    temporary.mkdir(parents=True, exist_ok=True)
    images = [
        [str(raw / "imagesTr" / f"{case}_{n:04d}{ENDING}") for n in range(len(MODALITIES))]
        for case in ids
    ]
    processes = min(len(ids), 3, os.cpu_count())
    predictor.predict_from_files(
        images,
        [str(temporary / case) for case in ids],
        num_processes_preprocessing=processes,
        num_processes_segmentation_export=processes,
    )
    for case in ids:
        os.replace(temporary / f"{case}.nii.gz", target / f"{case}.nii.gz")


def run_fold(
    number: int,
    fold: dict[str, list[str]],
    plans_file: Path,
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train a fold and predict its test cases, unless that is done; return what is said of it."""
    import torch

    record, target = options.output / f"fold_{number}.json", options.output / "predictions"
    if record.exists() and all((target / f"{case}.nii.gz").exists() for case in fold["test"]):
        return json.loads(record.read_text(encoding="utf-8"))
    torch.manual_seed(options.seed)
    torch.compiler.reset()  # else every fold's network counts against dynamo's limit
    trainer, figures = train(plans_file, number, device, options.seconds)
    began = time.perf_counter()
    raw = options.output / "nnUNet_raw" / NAME
    predict(trainer, fold["test"], raw, Path(trainer.output_folder) / "test", target)
    figures = fold | figures | {"predict_s": time.perf_counter() - began}
    write_json(record, figures)
    print(
        f"fold {number}: {figures['iterations']} steps in {figures['train_s']:.1f} s, "
        f"{figures['first_step_s']:.1f} s to the first, {figures['ms_per_step']:.1f} ms each; "
        f"{len(fold['test'])} cases predicted in {figures['predict_s']:.1f} s",
        flush=True,
    )
    return figures


def dice_of_patients(options: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict]:
    """Score the predictions by `segmamba evaluate`.

    Returns:
        Patient to region, and "mean", to Dice in [0, 1]; and {region or "mean": mean Dice}.
    """
    from segmamba.evaluation.evaluate import evaluate, write_evaluation
    from segmamba.evaluation.summary import patient_values

    evaluation = evaluate(
        options.output / "predictions", options.data, labels=options.labels, missing="skip"
    )
    write_evaluation(options.output / "evaluation", evaluation)
    means = {
        region: metrics["dice"]["mean"]
        for region, metrics in evaluation.summary["scores"][RULE].items()
    }
    patients: dict[str, dict[str, float]] = {}
    for region in means:
        for patient, dice in patient_values(evaluation.rows, RULE, region, "dice").items():
            patients.setdefault(patient, {})[region] = dice
    return patients, means


def print_dice(patients: dict[str, dict[str, float]], means: dict[str, float]) -> None:
    """Print Dice in points, a line for each patient and the means below."""
    width = max(map(len, [*patients, "mean of patients"]))
    order = ["WT", "TC", "ET", MEAN]
    print(f"\n{'Dice, points':{width}} " + " ".join(f"{region:>6}" for region in order))
    for name, dice in [*patients.items(), ("mean of patients", means)]:
        print(f"{name:{width}} " + " ".join(f"{100 * dice[region]:6.1f}" for region in order))


def compare_with(
    arm: str, found: FoundData, folds: Sequence[dict[str, list[str]]], options: argparse.Namespace
) -> dict[str, Any]:
    """Have an arm of our study predict the same cases, and compare the two folders.

    Args:
        arm: Its name in the study.
        found: The cases.
        folds: As `study_folds` gives them.
        options: Of the command line: data, labels, ours and output.

    Returns:
        The arm's mean Dice by region, the seconds that each of its folds trained and validated, and
        the verdict.
    """
    from segmamba.evaluation.compare import CAVEAT, compare, write_comparison
    from segmamba.orchestration.engine.context import arm_folder_name, trial_folder
    from segmamba.studies.trial_plan import TrialPlan

    labels, name = found.label_set.convention, arm_folder_name(arm)
    ours, cases = options.output / "ours" / name, {case.id: case for case in found.labelled}
    seconds = []
    for number, fold in enumerate(folds):
        trial = trial_folder(options.ours, TrialPlan(arm=arm, seed=0, fold=number))
        check_fold(trial, number, len(folds), options.data)
        history = json.loads((trial / "metrics" / "history.json").read_text(encoding="utf-8"))
        times = ("time/train_s", "time/validate_s")
        seconds.append(sum(epoch.get(key, 0.0) for epoch in history for key in times))
        listed = options.output / f"test_fold{number}.json"
        write_json(listed, datalist([cases[case] for case in fold["test"]]))
        command = [sys.executable, "-m", "segmamba.cli", "predict", "--labels", labels]
        command += ["--input", str(listed), "--output", str(ours), "--checkpoint", str(trial)]
        subprocess.run(command, check=True)
    comparison = compare(
        options.output / "predictions",
        ours,
        options.data,
        labels=options.labels,
        labels_a="auto",
        labels_b=labels,
        missing="skip",
        rule=RULE,
    )
    write_comparison(options.output / "comparison" / name, comparison)
    dice = {one.region: one.mean_b for one in comparison.paired if one.metric == "dice"}
    verdict = comparison.verdicts[RULE]
    print(
        f"\nA is nnU-Net, B is {arm}, whose folds trained for {np.mean(seconds):.0f} s "
        "with their validation."
    )
    print(f"{verdict}\n{CAVEAT}")
    return {"dice": dice, "train_s": seconds, "verdict": verdict}


def check_fold(trial: Path, number: int, folds: int, data: Path) -> None:
    """Refuse a trial that may have trained on what this fold tests.

    Args:
        trial: The trial's folder.
        number: Of the fold.
        folds: How many there are.
        data: The folder of the cases.
    """
    kept = json.loads((trial / "config.json").read_text(encoding="utf-8"))["data"]
    same_data = Path(kept["source"]).resolve() == data.resolve()
    if not same_data or (kept["fold"], kept["folds"]) != (number, folds):
        raise SystemExit(
            f"--ours: {trial} is of fold {kept['fold']} of {kept['folds']} of {kept['source']}, "
            f"not of fold {number} of {folds} of {data}"
        )


def datalist(cases: Sequence[Case]) -> dict[str, object]:
    """A datalist of the images of cases, which `segmamba predict` reads."""
    return {
        "channel_names": list(MODALITIES),
        "testing": [
            {"id": case.id, "image": [str(case.images[name]) for name in MODALITIES]}
            for case in cases
        ],
    }


def arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", required=True)
    parser.add_argument("--labels", default="mixed")
    parser.add_argument("--preset", default="quick", help="of the study, for its folds")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seconds", type=float, required=True, help="of training, a fold")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patch", type=int, nargs=3, metavar=("X", "Y", "Z"))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ours", type=Path, metavar="STUDY", help="folder of a study")
    parser.add_argument("--arms", nargs="+", metavar="ARM", default=[], help="of --ours")
    options = parser.parse_args()
    if importlib.util.find_spec("nnunetv2") is None:
        parser.exit(2, "nnU-Net is not installed: pip install nnunetv2\n")
    if bool(options.ours) != bool(options.arms):
        parser.error("--ours and --arms: give both or neither")
    options.output = options.output.resolve()
    return options


def check_settings(options: argparse.Namespace) -> None:
    """Refuse to mix folds that were trained otherwise."""
    file = options.output / "settings.json"
    content = {name: getattr(options, name) for name in SETTINGS}
    content["data"] = str(options.data.resolve())
    if file.exists() and (before := json.loads(file.read_text(encoding="utf-8"))) != content:
        changed = [name for name in SETTINGS if before.get(name) != content[name]]
        raise SystemExit(f"{options.output}: begun with other {', '.join(changed)}; give another")
    write_json(file, content)


def main() -> None:
    options, began = arguments(), time.perf_counter()
    (options.output / "predictions").mkdir(parents=True, exist_ok=True)
    check_settings(options)
    set_folders(options.output)
    found, folds = study_folds(options)
    for number, fold in enumerate(folds):
        sizes = ", ".join(f"{len(ids)} {name}" for name, ids in fold.items())
        print(f"fold {number}: {sizes} ({', '.join(fold['test'])})")
    plans_file = preprocess(found.labelled, folds, options)
    from segmamba.device import choose_device

    device, ready_s = choose_device(options.device), time.perf_counter() - began
    print(f"{device}; cases ready after {ready_s:.0f} s", flush=True)
    records = [
        run_fold(number, fold, plans_file, device, options) for number, fold in enumerate(folds)
    ]
    # It names the values of the predictions, as `segmamba evaluate` reads them.
    write_json(options.output / "predictions" / "dataset.json", dataset_json(found.labelled))
    patients, means = dice_of_patients(options)
    print_dice(patients, means)
    compared = {arm: compare_with(arm, found, folds, options) for arm in options.arms}
    figures = {f"dice_{region}": Figure(100 * value, "points") for region, value in means.items()}
    for name in ("iterations", "train_s", "first_step_s", "ms_per_step", "predict_s"):
        unit = "ms" if name.startswith("ms") else "s" if name.endswith("_s") else ""
        figures[name] = Figure(float(np.mean([record[name] for record in records])), unit)
    report(
        figures,
        options.json,
        device=str(device),
        nnunetv2=version("nnunetv2"),
        seconds=options.seconds,
        dice_of_patients=patients,
        folds=records,
        ours=compared,
    )


if __name__ == "__main__":
    main()
