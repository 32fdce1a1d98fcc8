"""Does it learn? The paper network on a handful of labelled cases, until every region's training Dice is at least 0.90.

    python benchmarks/overfit.py --data DIR [--labels mixed] [--limit-s 600] [--goal 0.9] [--set name=value ...] [--json FILE]

All labelled cases of the folder are trained on, without augmentation, and scored as whole volumes every 5 epochs of 100 steps. The
network, the patch and the loss are those of the `paper` preset; the rate is higher and falls little, since the run is short.
Needs none of the optional packages.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from segmamba.config import parse_assignments, preset
from segmamba.data.labels import REGIONS
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.training.fit import fit

SHORT = {
    "optim.lr": 5e-4,
    "optim.min_lr": 5e-5,
    "optim.warmup_epochs": 1,
    "train.epochs": 120,
    "train.steps_per_epoch": 100,
    "train.accumulation": 1,
    "train.validate_every_epochs": 5,
    "train.early_stop_epochs": 0,
    "augment.flip_probability": 0.0,
    "augment.rotate90_probability": 0.0,
    "augment.scale_range": (1.0, 1.0),
    "augment.brightness": 0.0,
    "augment.contrast_range": (1.0, 1.0),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labels", default="mixed")
    parser.add_argument("--limit-s", type=float, default=600.0)
    parser.add_argument("--goal", type=float, default=0.90)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    config = preset("paper").changed(
        SHORT | source_changes(options.data, options.labels) | parse_assignments(options.set)
    )
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        cases, source, _ = labelled_cases(config, folder, lambda label: lambda done, total: None)
        prepared = prepare_cases(cases, Path(folder) / "cache", config.data)
        figures = overfit(config, prepared, device, options.limit_s, options.goal)
    print(f"{source}, {len(prepared)} cases, {device}")
    if options.json:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        options.json.write_text(
            json.dumps(
                {"figures": figures, "machine": {"device": name, "torch": torch.__version__}},
                indent=1,
            )
            + "\n"
        )


def overfit(config, cases, device, limit_s, goal):
    """Train until the goal or the limit; the figures."""
    everything = Split(train=cases, validation=cases, test=cases, test_is_validation=True, notes=())
    began, dice, reached = time.perf_counter(), {}, None
    print(
        f"{'epoch':>6}{'seconds':>9}{'loss':>8}{'patches/s':>11}"
        + "".join(f"{region:>8}" for region in REGIONS),
        flush=True,
    )
    for epoch in fit(config, everything, device):
        spent = time.perf_counter() - began
        if epoch.rows:
            dice = {region: epoch.metrics[f"val/dice_{region}"] for region in REGIONS}
            scores = "".join(f"{score:8.3f}" for score in dice.values())
            print(
                f"{epoch.number:6}{spent:9.1f}{epoch.metrics['train/loss']:8.3f}{epoch.metrics['time/patches_per_s']:11.1f}{scores}",
                flush=True,
            )
            if min(dice.values()) >= goal:
                reached = spent
                break
        if spent > limit_s:
            break
    print(
        f"{goal:g} in every region after {reached:.0f} s"
        if reached
        else f"{goal:g} in every region: not reached within {limit_s:g} s"
    )
    figures = {
        f"training Dice {r}": {
            "value": score,
            "unit": "",
            "goal": f">= {goal:g}",
            "holds": score >= goal,
        }
        for r, score in dice.items()
    }
    figures["seconds until all reach it"] = {
        "value": reached,
        "unit": "s",
        "goal": f"<= {limit_s:g}",
        "holds": reached is not None,
    }
    return figures


if __name__ == "__main__":
    main()
