"""What the orchestration costs: a study's time beyond its training, and the driver's memory.

    python benchmarks/study_overhead.py [--trials 16] [--seconds 30] [--simulated 200] [--json FILE]

The study has --trials trials of one arm on 2 cores, each of at least --seconds inside fit() (steps,
validation), on phantoms that are made and cached beforehand. Its whole wall time, from the
command's start to the report, is compared with the sum of the times inside fit() divided by two. "A
report" is the epoch's log to MLflow and the report to Ray, timed inside trials that train nothing.
There are --simulated of those, and the driver's resident memory is read as they end. It takes about
8 minutes and needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Figure, any_missed, at_least, at_most, command_line, report
from simulated_cluster import Counter, accounted, simulated_study

if TYPE_CHECKING:
    from segmamba.studies.results import Study

ROOT = Path(__file__).parents[1]
CORES, EPOCHS = 2, 4
# Growth of the driver, between a quarter of the trials and their end, that counts as none.
FLAT_MIB = 16
SETTINGS = {
    "phantom.cases": 8,
    "train.epochs": EPOCHS,
    "train.validate_every_epochs": 2,
    "optim.warmup_epochs": 0,
}


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="least time of a trial inside fit()"
    )
    parser.add_argument("--simulated", type=int, default=200, help="trials that train nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = study_figures(Path(folder), options) | simulated_figures(
            Path(folder) / "simulated", options
        )
    report(figures, options.json)
    return int(any_missed(figures))


def study_figures(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    """The time of a whole study beside the time that its trials spend inside fit()."""
    # The fastest of three: one measured beside other work would make the trials too short.
    step_s = min(measured_step_s(folder, options) for _ in range(3))
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
        "shortest trial, inside fit()": at_least(min(inside), options.seconds, "s"),
        "inside fit(), all trials, / 2": Figure(sum(inside) / CORES, "s"),
        "the study": Figure(wall, "s", f"<= {allowed:.0f} (1.10 x + 15)", wall <= allowed),
    }


def measured_step_s(folder: Path, options: argparse.Namespace) -> float:
    """Seconds of one optimiser step of a trial that runs alone, measured anew."""
    shutil.rmtree(folder / "Results" / "cache" / "rehearsals", ignore_errors=True)
    return json.loads(study(folder, options, 1, "--plan", "--json"))["arms"]["depth 2"]["step_s"]


def study(folder: Path, options: argparse.Namespace, steps: int, *more: str) -> str:
    """Run the study's command in `folder`; what it prints."""
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


def simulated_figures(folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    """Figures of trials that train nothing, under the engine's own Ray, callbacks and MLflow."""
    watch = Counter()
    study = simulated_study(folder, options.simulated, watch, cpus=CORES)
    count, wrong = accounted(study)
    quarter, end = watch.rss_mib[len(watch.rss_mib) // 4], watch.rss_mib[-1]
    return {
        "a report": at_most(median(reports(study)), 10, "ms"),
        f"the driver's memory after {len(watch.rss_mib) // 4} trials": Figure(quarter, "MiB"),
        f"its growth until the end of {options.simulated}": at_most(end - quarter, FLAT_MIB, "MiB"),
        "simulated trials accounted for": Figure(count, "", str(len(study.trials)), not wrong),
    }


def reports(study: Study) -> list[float]:
    """Milliseconds of a report, the median of each trial."""
    return [
        json.loads((Path(trial.folder) / "report_ms.json").read_text(encoding="utf-8"))
        for trial in study.trials
    ]


def median(values: list[float]) -> float:
    """The upper median."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
