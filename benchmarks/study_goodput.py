"""How busy a study keeps its GPUs: patches a second over its whole wall time, command to report.

    python benchmarks/study_goodput.py [--trials 8] [--epochs 30] [--starts cold filled] \\
        [--data DIR --labels mixed] [--one-gpu FILE] [--json FILE] [--tiny]

The study is `ablate_depth.py --preset quick` with its arms depth 2 and depth 0, on phantoms or on
--data. It runs once for each of --starts: cold begins with an empty compiler's cache, filled with
the one that the cold study left. The cases are prepared beforehand; they are the same for any
compiler. A GPU is busy while nvidia-smi says so, sampled twice a second from the command's start to
its end. A pause lasts from the last step of a trial to the first of the next one in the same
process, and contains everything that is not an ordinary step: the last validation, the test, files,
MLflow, Ray, the next network and its warm-up. Pauses after which a process has to load another
graph are counted apart.

--one-gpu takes the JSON of a run on one GPU: how many times as many trials an hour does this host
give? --tiny tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from figures import Figure, any_missed, at_least, at_most, command_line, report
from packing import TINY

ROOT = Path(__file__).parents[1]
ARMS = ("depth 2", "depth 0")
GOALS = {"cold": 60.0, "filled": 70.0}
GOAL_OF_SEVERAL = 55.0
BUSY, PAUSE_S = 0.85, 8.0
SHARE_OF_LINEAR = 3.7 / 4
SHOWN = ("data", "trials", "compute", "compile", "failed", "report")
"""First words of the study's lines that are repeated."""


@dataclass(frozen=True)
class Trained:
    """When a trial trained, by the wall clock, and in which process."""

    process: str
    arm: str
    first_epoch_s: float
    """When its first epoch ended, without validation."""
    last_step_s: float
    epoch_s: float
    """An ordinary epoch's training."""


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--trials", type=int, default=8, help="of both arms together")
    parser.add_argument("--epochs", type=int, default=30, help="of a trial, 100 steps each")
    parser.add_argument("--gpus-per-trial", default="1", metavar="N")
    parser.add_argument("--cpus", default="0", metavar="N", help="of the study; 0 is all")
    parser.add_argument("--starts", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--cases", type=int, default=40, help="phantoms")
    parser.add_argument("--data", metavar="DIR")
    parser.add_argument("--labels", default="mixed")
    parser.add_argument("--folder", type=Path, help="of results and caches; kept")
    parser.add_argument("--one-gpu", type=Path, metavar="FILE")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _prepare(options, folder)
        for start in options.starts:
            figures |= measured(start, folder, options)
            report(figures, options.json, table=False, gpus=gpu_names())
    if options.one_gpu:
        before = json.loads(options.one_gpu.read_text())["figures"]
        name = f"{options.starts[-1]}, trials an hour"
        times = (figures[name].value or 0) / before[name]["value"]
        figures["trials an hour, times one GPU"] = at_least(
            times, round(SHARE_OF_LINEAR * len(gpu_names()), 2), "x"
        )
    report(figures, options.json, gpus=gpu_names())
    return int(any_missed(figures))


def measured(start: str, folder: Path, options: argparse.Namespace) -> dict[str, Figure]:
    """The figures of one study."""
    if start == "cold":
        shutil.rmtree(folder / "compiler", ignore_errors=True)
    sampler = Busy()
    began = time.time()
    _run(options, folder)
    ended = time.time()
    busy = sampler.stop()
    study = max((folder / "Results").glob("ablate_depth_Run*"), key=lambda path: path.name)
    trained = [trial_times(path) for path in sorted(study.glob("trials/*"))]
    histories = [json.loads(path.read_text()) for path in study.glob("trials/*/metrics/history*")]
    steps = sum(len(history) for history in histories) * (4 if options.tiny else 100)
    gpus, wall_s = max(1, len(gpu_names())), ended - began
    inside_s = sum(epoch["time/train_s"] for history in histories for epoch in history)
    validated_s = sum(e.get("time/validate_s", 0.0) for history in histories for e in history)
    same, other = pauses(trained)
    starts = [trial.first_epoch_s - trial.epoch_s - began for trial in trained]
    goal = GOALS[start] if gpus == 1 else GOAL_OF_SEVERAL
    print(f"{start}: {wall_s:.0f} s, pauses {same}, with another graph {other}", flush=True)
    found = {
        "patches a second and GPU": at_least(2 * steps / wall_s / gpus, goal, "/s"),
        "the same while a trial trains": Figure(2 * steps / inside_s, "/s"),
        "GPU busy": at_least(busy, BUSY) if busy is not None else Figure(None),
        "trials an hour": Figure(3600 * len(histories) / wall_s, "/h"),
        "wall time": Figure(wall_s, "s"),
        "until the first ordinary step": Figure(min(starts), "s"),
        "after the last step": Figure(ended - max(t.last_step_s for t in trained), "s"),
        "validation, share of training": Figure(validated_s / inside_s),
        "longest pause, same graph": at_most(max(same), PAUSE_S, "s") if same else Figure(None),
        "median pause, same graph": Figure(statistics.median(same) if same else None, "s"),
        "median pause, another graph": Figure(statistics.median(other) if other else None, "s"),
    }
    return {f"{start}, {name}": figure for name, figure in found.items()}


def trial_times(folder: Path) -> Trained:
    """Read when a trial trained from its TensorBoard events, which are named by their process."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.glob("logs/events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    at = [event.wall_time for event in events.Scalars("train/loss")]
    history = json.loads((folder / "metrics" / "history.json").read_text())
    ends = [
        wall - epoch.get("time/validate_s", 0.0) for wall, epoch in zip(at, history, strict=True)
    ]
    epoch_s = statistics.median(epoch["time/train_s"] for epoch in history)
    process, arm = file.name.split(".")[-2], folder.name.rpartition("_seed")[0]
    return Trained(process, arm, ends[0], ends[-1], epoch_s)


def pauses(trained: list[Trained]) -> tuple[list[float], list[float]]:
    """Seconds between trials of one process: with the same graph, and with one that it loads."""
    of_process = collections.defaultdict(list)
    for trial in sorted(trained, key=lambda trial: trial.first_epoch_s):
        of_process[trial.process].append(trial)
    same: list[float] = []
    other: list[float] = []
    for trials in of_process.values():
        for number, trial in enumerate(trials[1:], 1):
            seen = {before.arm for before in trials[:number]}
            pause_s = trial.first_epoch_s - trial.epoch_s - trials[number - 1].last_step_s
            (same if trial.arm in seen else other).append(round(pause_s, 1))
    return same, other


class Busy:
    """Samples how busy the GPUs are, by nvidia-smi."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
        program = nvidia_smi()
        self._process = (
            subprocess.Popen([*program, *query], stdout=subprocess.PIPE, text=True)
            if program
            else None
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """End the sampling; the mean share, or None without nvidia-smi."""
        if self._process is None:
            return None
        self._process.terminate()
        self._thread.join()
        return statistics.mean(self._samples) / 100 if self._samples else None

    def _read(self) -> None:
        if self._process and self._process.stdout:
            for line in self._process.stdout:
                if line.strip().isdigit():
                    self._samples.append(float(line))


def gpu_names() -> list[str]:
    """The GPUs of this machine, without importing torch."""
    program = nvidia_smi()
    if not program:
        return []
    query = ["--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run([*program, *query], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def nvidia_smi() -> list[str]:
    """The command that asks for the GPUs that a study sees; [] where there is none."""
    program, seen = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [program, *(["-i", seen] if seen else [])] if program else []


def _settings(options: argparse.Namespace) -> dict[str, object]:
    settings: dict[str, object] = {"train.epochs": options.epochs, "phantom.cases": options.cases}
    if options.tiny:
        settings |= TINY | {"train.steps_per_epoch": 4, "train.compile": "always"}
    return settings


def _run(options: argparse.Namespace, folder: Path) -> None:
    """Run the study."""
    settings = _settings(options)
    environment = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiler"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-u", str(ROOT / "experiments" / "ablate_depth.py")]
    command += [
        "--cpus",
        options.cpus,
        "--preset",
        "quick",
        "--seeds",
        str(options.trials // len(ARMS)),
        "--fresh",
    ]
    command += [part for arm in ARMS for part in ("--arms", arm)]
    command += ["--data", options.data, "--labels", options.labels] if options.data else []
    command += ["--gpus-per-trial", options.gpus_per_trial] if not options.tiny else []
    command += [part for name in settings for part in ("--set", f"{name}={settings[name]}")]
    began, lines = time.monotonic(), []
    with subprocess.Popen(
        [*command, "--output", str(folder / "Results")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if line[:9].strip() in SHOWN or line.startswith("["):
                print(f"{time.monotonic() - began:6.1f} s  {lines[-1]}", flush=True)
    if process.returncode:
        raise SystemExit("\n".join(lines[-40:]))


def _prepare(options: argparse.Namespace, folder: Path) -> None:
    """Prepare the cases of the study."""
    from segmamba.config import parse_assignments, preset
    from segmamba.data.source import prepare_split, source_changes
    from segmamba.orchestration.engine.progress import SilentProgress

    changes = parse_assignments([f"{name}={value}" for name, value in _settings(options).items()])
    source = source_changes(Path(options.data), options.labels, ()) if options.data else {}
    began = time.monotonic()
    prepare_split(
        preset("quick").changed(source | changes),
        folder / "Results",
        steps=SilentProgress().steps,
        cache=folder.resolve() / "Results" / "cache",
    )
    print(f"cases prepared in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
