"""What the orchestration costs: the time of a study beyond its training, of a report, and the driver's memory over many trials.

    python benchmarks/study_overhead.py [--trials 16] [--seconds 30] [--simulated 200] [--json FILE]

The study: so many trials of one arm on 2 cores, each of at least --seconds inside fit() (steps, validation), on phantoms that are
made and cached beforehand. Its whole wall time, from the command's start to the report, is compared with the sum of the times inside
fit() divided by two. A report: the epoch's log to MLflow and the report to Ray, timed inside trials that train nothing; of those there
are --simulated, and the driver's resident memory is read as they end. About 8 minutes; needs a quiet machine.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from simulated_cluster import (
    accounted,
    simulated_study,
    simulated_trial,
)  # the script beside this one

from segmamba.orchestration.engine.progress import SilentProgress

ROOT = Path(__file__).parents[1]
CORES, EPOCHS = 2, 4
FLAT_MIB = (
    16  # growth of the driver between a quarter of the trials and their end that counts as none
)
SETTINGS = {
    "phantom.cases": 8,
    "train.epochs": EPOCHS,
    "train.validate_every_epochs": 2,
    "optim.warmup_epochs": 0,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="least time of a trial inside fit()"
    )
    parser.add_argument("--simulated", type=int, default=200, help="trials that train nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = study_figures(Path(folder), options) | simulated_figures(
            Path(folder) / "simulated", options
        )
    for name, figure in figures.items():
        verdict = "" if figure["holds"] is None else "holds" if figure["holds"] else "MISSED"
        print(
            f"{name:60} {figure['value']:9.4g} {figure['unit']:4} {'goal ' + figure['goal'] if figure['goal'] else '':24} {verdict}"
        )
    if options.json:
        machine = {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=1) + "\n"
        )
    return int(any(figure["holds"] is False for figure in figures.values()))


def study_figures(folder, options):
    step_s = min(
        measured_step_s(folder, options) for _ in range(3)
    )  # one taken beside somebody else's work would make trials too short
    steps = max(1, int(1.2 * options.seconds / EPOCHS / step_s))
    print(f"a step takes {step_s:.2f} s alone: {EPOCHS} epochs of {steps} steps", flush=True)
    began = time.monotonic()
    study(folder, options, steps)
    wall = time.monotonic() - began
    inside = [
        sum(e["time/train_s"] + e.get("time/validate_s", 0.0) for e in json.loads(path.read_text()))
        for path in folder.glob("Results/*_Run01/trials/*/metrics/history.json")
    ]
    assert len(inside) == options.trials, f"{len(inside)} trials ran"
    allowed = 1.10 * sum(inside) / CORES + 15
    return {
        "shortest trial, inside fit()": figure(
            min(inside), "s", f">= {options.seconds:g}", min(inside) >= options.seconds
        ),
        "inside fit(), all trials, / 2": figure(sum(inside) / CORES, "s"),
        "the study": figure(wall, "s", f"<= {allowed:.0f} (1.10 x + 15)", wall <= allowed),
    }


def measured_step_s(folder, options):
    """Of a trial alone, measured anew."""
    shutil.rmtree(folder / "Results" / "cache" / "rehearsals", ignore_errors=True)
    return json.loads(study(folder, options, 1, "--plan", "--json"))["arms"]["depth 2"]["step_s"]


def study(folder, options, steps, *more):
    """What the study's command prints."""
    settings = [
        part
        for name, value in (SETTINGS | {"train.steps_per_epoch": steps}).items()
        for part in ("--set", f"{name}={value}")
    ]
    command = [
        sys.executable,
        ROOT / "experiments" / "ablate_depth.py",
        "--arms",
        "depth 2",
        "--seeds",
        str(options.trials),
        "--cpus",
        str(CORES),
        *settings,
        *more,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def simulated_figures(folder, options):
    """Of trials that train nothing, under the engine's own Ray, callbacks and MLflow."""
    from segmamba.orchestration.engine import launch, trainable
    from segmamba.orchestration.engine.cluster import machine_for, ray_here
    from segmamba.orchestration.engine.resources import Resources

    with machine_for(None, CORES, folder, "") as machine, ray_here(machine, lambda: None):
        context, plans = simulated_study(folder, options.simulated)
        trainable.run_trial = simulated_trial
        from ray import cloudpickle, tune

        cloudpickle.register_pickle_by_value(sys.modules[simulated_trial.__module__])

        callback = Watch()
        resources = Resources(gpus=0, cpus=1, threads=1, at_once=1, cores=CORES, compile="auto")
        launch.TrialLauncher(context, resources, callback).run(
            {"trial": tune.grid_search(plans)}, reuse_actors=True
        )
    found, wrong = accounted(context, plans)
    quarter, end = callback.rss[len(callback.rss) // 4], callback.rss[-1]
    report_ms = median(reports(context, plans))
    return {
        "a report": figure(report_ms, "ms", "<= 10", report_ms <= 10),
        f"the driver's memory after {len(callback.rss) // 4} trials": figure(quarter, "MiB"),
        f"its growth until the end of {options.simulated}": figure(
            end - quarter, "MiB", f"<= {FLAT_MIB}", end - quarter <= FLAT_MIB
        ),
        "simulated trials accounted for": figure(found, "", str(options.simulated), not wrong),
    }


def reports(context, plans):
    """Milliseconds of a report, the median of each trial."""
    from segmamba.orchestration.engine.context import trial_folder

    return [
        json.loads((trial_folder(context.folder, plan) / "report_ms.json").read_text())
        for plan in plans
    ]


def median(values):
    return sorted(values)[len(values) // 2]


def figure(value, unit, goal="", holds=None):
    return {"value": value, "unit": unit, "goal": goal, "holds": holds}


class Watch(SilentProgress):
    """Progress that reads the driver's resident memory, in MiB, as each trial ends."""

    def __init__(self):
        self.rss = []

    def completed(self, key):
        status = Path("/proc/self/status").read_text().splitlines()
        self.rss.append(
            next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
        )
        if len(self.rss) % 50 == 0:
            print(f"{len(self.rss)} simulated trials, {self.rss[-1]:.0f} MiB", flush=True)

    def failed(self, key, reason, log):
        print(f"{key} failed: {reason}", flush=True)

    def say(self, text):
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
