"""Does it learn? The paper network on a few labelled cases, until each region's Dice is 0.90.

    python benchmarks/overfit.py --data DIR [--labels mixed] [--limit-s 600] [--goal 0.9] \\
        [--set name=value ...] [--json FILE]

All labelled cases of the folder are trained on, without augmentation, and scored as whole volumes
every 5 epochs of 100 steps. The network, the patch and the loss are those of the `paper` preset;
the rate is higher and falls little, since the run is short. It needs none of the optional packages.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from figures import Figure, at_least, command_line, report
from segmamba.config import Config, parse_assignments, preset
from segmamba.data.label_sets import GLIOMA
from segmamba.data.preprocess import PreparedCase, prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.training.fit import fit

SHORT: dict[str, object] = {
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


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--labels", default="mixed")
    parser.add_argument("--limit-s", type=float, default=600.0)
    parser.add_argument("--goal", type=float, default=0.90)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--device", default="auto")
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
    report(figures, options.json, device=str(device), cases=len(prepared))


def overfit(
    config: Config, cases: list[PreparedCase], device: torch.device, limit_s: float, goal: float
) -> dict[str, Figure]:
    """Train until the goal is reached or the time is over."""
    everything = Split(train=cases, validation=cases, test=cases, test_is_validation=True, notes=())
    began, reached_s = time.perf_counter(), None
    dice: dict[str, float] = {}
    print(
        f"{'epoch':>6}{'seconds':>9}{'loss':>8}{'patches/s':>11}"
        + "".join(f"{region:>8}" for region in GLIOMA.regions),
        flush=True,
    )
    for epoch in fit(config, everything, device):
        spent = time.perf_counter() - began
        if epoch.rows:
            dice = {region: epoch.metrics[f"val/dice_{region}"] for region in GLIOMA.regions}
            scores = "".join(f"{score:8.3f}" for score in dice.values())
            loss, rate = (epoch.metrics[name] for name in ("train/loss", "time/patches_per_s"))
            print(f"{epoch.number:6}{spent:9.1f}{loss:8.3f}{rate:11.1f}{scores}", flush=True)
            if min(dice.values()) >= goal:
                reached_s = spent
                break
        if spent > limit_s:
            break
    print(
        f"{goal:g} in every region after {reached_s:.0f} s"
        if reached_s is not None
        else f"{goal:g} in every region: not reached within {limit_s:g} s"
    )
    figures = {f"training Dice {region}": at_least(score, goal) for region, score in dice.items()}
    figures["seconds until all reach it"] = Figure(
        reached_s, "s", f"<= {limit_s:g}", reached_s is not None
    )
    return figures


if __name__ == "__main__":
    main()
