"""A trial of the demo on one core: CPU seconds by part, with our kernels and without.

    python benchmarks/demo_trial.py [--depths 0 2 4] [--repeats 2] [--against DIR] [--json FILE]

A trial trains the demo preset on phantom cases that are prepared, and tests it, in one thread of a
process of its own. Seconds are those that its thread computes: work beside it counts little.
`rest` is augmentation, loading, validation, curves, checkpoints and what is imported on the way.
The ways take turns: as this machine runs it, by torch's kernels alone, and with --against by the
package of another check-out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from figures import Figure, at_most, command_line, report

ROOT = Path(__file__).parents[1]
GOAL_OF_BEFORE = 0.5
CHILD = "--trial"


def trial(depth: int, folder: Path) -> dict[str, float]:
    """Train and test one trial in this thread; its seconds by part."""
    import torch

    torch.set_num_threads(1)
    from segmamba.config import preset
    from segmamba.data.source import prepare_split
    from segmamba.training import run, run_evaluation
    from segmamba.training.optim import Optimizer
    from segmamba.training.run_folder import RunFolder
    from segmamba.training.step import ForwardLoss
    from train_run import Clock

    config = preset("demo").changed({"model.mamba_depths": (depth, depth, depth)})
    data = prepare_split(
        config, folder, steps=lambda label: lambda done, total: None, learners=[config]
    )
    config, split, device = data.resolved(config), data.split(), torch.device("cpu")
    clocks: dict[str, Clock] = defaultdict(Clock)
    for name, owner, function in (
        ("forward", ForwardLoss, "forward"),
        ("backward", Optimizer, "backward"),
        ("optimizer", Optimizer, "step"),
    ):
        clocks[name].wrap(owner, function, time.thread_time)
    with tempfile.TemporaryDirectory() as results:
        place, began = RunFolder(Path(results) / "trial"), time.thread_time()
        for _ in run.train_run(config, split, place, device):
            pass
        trained = time.thread_time()
        run_evaluation.evaluate_run(config, split, place, device)
        whole = time.thread_time() - began
    seconds = {name: clock.seconds for name, clock in clocks.items()}
    seconds["test"] = whole - (trained - began)
    return {"trial": whole, **seconds, "rest": whole - sum(seconds.values())}


def measured(depth: int, folder: Path, package: Path, *, kernels: str) -> dict[str, float]:
    """The seconds of `trial` in a process that imports segmamba from `package`."""
    command = [sys.executable, __file__, CHILD, "--depths", str(depth), "--data", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(package), "SEGMAMBA_CPU_KERNELS": kernels}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Figure]:
    """Run the ways in turn; the figures are medians over the repeats."""
    ways = {"ours": (ROOT, "1"), "torch": (ROOT, "0")}
    if options.against:
        ways["before"] = (options.against.resolve(), "0")
    figures = {}
    for depth in options.depths:
        runs: dict[str, list[dict[str, float]]] = defaultdict(list)
        for _ in range(options.repeats):
            for way, (package, kernels) in ways.items():
                runs[way].append(measured(depth, folder, package, kernels=kernels))
                parts = ", ".join(f"{name} {s:.1f}" for name, s in runs[way][-1].items())
                print(f"depth {depth}, {way}: {parts}", flush=True)
        medians = {
            way: {name: statistics.median(run[name] for run in all_runs) for name in all_runs[0]}
            for way, all_runs in runs.items()
        }
        for way, parts_s in medians.items():
            figures |= {f"depth {depth}, {way}, {n}": Figure(s, "s") for n, s in parts_s.items()}
        for way in list(ways)[1:]:
            share = medians["ours"]["trial"] / medians[way]["trial"]
            name = f"depth {depth}, ours / {way}"
            figures[name] = at_most(share, GOAL_OF_BEFORE) if way == "before" else Figure(share)
    return figures


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--against", type=Path, metavar="DIR", help="another check-out")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where phantom cases are kept")
    parser.add_argument(CHILD, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(trial(options.depths[0], options.data)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(compare(options, options.data or Path(folder)), options.json)


if __name__ == "__main__":
    main()
