"""Four short trials on one GPU: does `--gpus-per-trial auto` choose the faster way to run them?

    python benchmarks/packing.py [--trials 4] [--epochs 3] [--steps 40] [--json FILE] [--tiny]

The study runs three times through its command: two half-GPU trials at a time, eager; one at a time,
compiled; and as `auto` decides for these trials. The figure is the optimiser steps a second of all
trials that run at once, from the second epoch of each, when they are warm: what a long run has. The
study's wall time, which includes processes that start and a compiler that runs, is printed beside
it. `auto` plans for the preset's whole length, not for the few epochs timed here. Phantom data;
about 10 minutes on an H100. --tiny tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, at_least, command_line, report

ROOT = Path(__file__).parents[1]
GOAL = 0.95
TINY = {
    "model.base_channels": 4,
    "data.spacing_mm": 4,
    "data.patch_size": "32,32,32",
    "phantom.size": "48,48,48",
    "phantom.cases": 6,
    "data.workers": 0,
}
WAYS = {"packed, eager": ("0.5", "never"), "serial, compiled": ("1", "always")}


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument(
        "--epochs", type=int, default=3, help="of each trial; the first is not counted"
    )
    parser.add_argument("--steps", type=int, default=40, help="of an epoch")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a tiny network on this machine's CPU, where nothing is packed or compiled",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates, chosen = measure(Path(folder), options)
    best = max(rates[name] for name in WAYS)
    share = rates["auto"] / best
    print(f"auto chose {chosen}", flush=True)
    figures = {name: Figure(rate, "steps/s") for name, rate in rates.items()}
    figures["auto, share of the better"] = at_least(share, GOAL)
    report(figures, options.json, gpu=gpu(), chosen=chosen)
    return int(share < GOAL)


def measure(folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], str]:
    """Steps a second of each way, and the way that auto chose."""
    ways = {
        name: []
        if options.tiny
        else ["--gpus-per-trial", gpus, "--set", f"train.compile={compiled}"]
        for name, (gpus, compiled) in WAYS.items()
    }
    began = time.monotonic()
    budget = json.loads(study(folder, options, "--plan", "--json"))
    chosen = budget["why"]
    print(f"planned in {time.monotonic() - began:.0f} s: {chosen}", flush=True)
    for way in budget["ways"]:
        print(
            f"    {way['way']:24} {way['steps_per_s']:6.2f} steps/s, "
            f"the study in {way['study_s']:.0f} s",
            flush=True,
        )
    resources = budget["resources"]
    ways["auto"] = (
        []
        if options.tiny
        else [
            "--gpus-per-trial",
            f"{resources['gpus']:g}",
            "--set",
            f"train.compile={resources['compile']}",
        ]
    )
    rates: dict[str, float] = {}
    for number, (name, how) in enumerate(ways.items(), 1):
        same = next((other for other in rates if ways[other] == how), None)
        if name == "auto" and same and not options.tiny:
            rates[name] = rates[same]  # the same command: running it again would time the noise
            print(f"auto is {same}", flush=True)
            continue
        began = time.monotonic()
        study(folder, options, "--fresh", *short(options), *how)
        rates[name] = rate(folder, number)
        wall_s = time.monotonic() - began
        print(
            f"{name:20} {rates[name]:6.2f} steps/s, the whole study took {wall_s:.0f} s", flush=True
        )
    return rates, chosen


def short(options: argparse.Namespace) -> list[str]:
    """The options that make trials short."""
    changes = {
        "train.epochs": options.epochs,
        "train.steps_per_epoch": options.steps,
        "train.validate_every_epochs": options.epochs,
        "optim.warmup_epochs": 0,
        "data.test_cases": 1,
        "data.validation_cases": 1,
    }
    return [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]


def study(folder: Path, options: argparse.Namespace, *more: str) -> str:
    """Run a study of one arm in `folder`; what it prints."""
    settings = TINY if options.tiny else {"phantom.cases": 8}
    changes = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable,
        ROOT / "experiments" / "ablate_depth.py",
        "--preset",
        "demo" if options.tiny else "quick",
        "--arms",
        "depth 2",
        "--seeds",
        str(options.trials),
        *changes,
        *more,
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": _with_root()},
    )
    if done.returncode:
        sys.exit(f"the study failed with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def _with_root() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def rate(folder: Path, number: int) -> float:
    """Steps a second of the trials that ran at once, from the second epoch on.

    Args:
        folder: Where the study ran.
        number: The number of its run.
    """
    run = folder / "Results" / f"ablate_depth_Run{number:02d}"
    histories = [
        json.loads(path.read_text()) for path in sorted(run.glob("trials/*/metrics/history.json"))
    ]
    configs = [json.loads(path.read_text()) for path in sorted(run.glob("trials/*/config.json"))]
    steps = configs[0]["train"]["steps_per_epoch"]
    alone = [
        steps * len(history[1:]) / sum(epoch["time/train_s"] for epoch in history[1:])
        for history in histories
    ]
    return sum(alone) / len(alone) * at_once(run)


def at_once(run: Path) -> float:
    """How many trials ran at the same time, on average over the time of their counted epochs."""
    spans = []
    for path in sorted(run.glob("trials/*/metrics/history.json")):
        history = json.loads(path.read_text())
        end = (path.parents[1] / "checkpoints" / "last.pth").stat().st_mtime
        counted_s = sum(
            epoch["time/train_s"] + epoch.get("time/validate_s", 0.0) for epoch in history[1:]
        )
        spans.append((end - counted_s, end))
    covered, last = 0.0, 0.0
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return sum(end - start for start, end in spans) / covered


def gpu() -> str:
    """The GPU's name; torch is imported after the studies have run."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


if __name__ == "__main__":
    sys.exit(main())
