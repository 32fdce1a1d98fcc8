"""Thousands of trials on a cluster whose nodes die on the way: is every result accounted for?

    python benchmarks/simulated_cluster.py [--trials 1000] [--nodes 4] [--cores 2] [--kills 3] \\
        [--json FILE]

The trials train nothing. The study, its scheduling, restarts, MLflow runs, statuses and report are
the engine's own; only the training is replaced, by a few numbers that are written to the trial's
folder and logged epoch by epoch. All Ray nodes run on this machine, each a process group that is
killed as a whole. A trial is accounted for where it has one FINISHED run with every epoch once, the
value that its arm and seed give, and its test cases. Then the study is marked as stopped, and
`--resume` finds nothing left but its report.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import psutil

from figures import Figure, any_missed, at_least, at_most, below, command_line, report
from segmamba.orchestration.engine.progress import SilentProgress

if TYPE_CHECKING:
    from segmamba.orchestration.engine.context import StudyContext
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.studies.results import Study

Figures = dict[str, Figure]
EPOCHS, CASES = 3, 12
TEST = ("dice_mean", "dice_ET", "dice_TC", "dice_WT")
VALIDATION = tuple(f"val/{name}" for name in TEST)
WINDOW = 500
"""Trials over which a rate is taken at both ends of a study."""
OBJECT_STORE = 100 * 2**20


def simulated_trial(assignment: dict[str, Any], context: StudyContext) -> None:
    """Stand in for `run_trial` of the engine: resume from its folder, log and report.

    It takes no time.
    """
    from ray import tune

    from segmamba.files import write_json
    from segmamba.orchestration.engine.context import trial_folder
    from segmamba.orchestration.tracking.run_log import FOLDER_TAG

    plan = assignment["trial"]
    folder = trial_folder(context.folder, plan)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "history.json"
    history = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []
    tags = context.trial_tags(plan) | {FOLDER_TAG: str(folder)}
    log = context.run.trial_log(plan.key, tags)
    log._wants_monitor = False  # a sampler of the machine's load a trial would measure itself
    log.log_config(context.config(plan).to_flat_dict())
    log.log_history(history)
    took_ms = []
    for epoch in range(len(history) + 1, EPOCHS + 1):
        metrics = {name: value(plan.key, epoch) for name in VALIDATION} | {"train/loss": 1 / epoch}
        history.append({"epoch": epoch} | metrics)
        write_json(kept, history)
        began = time.perf_counter()
        log.log_history(history[-1:])
        tune.report({"epoch": epoch, "epochs": EPOCHS} | metrics)
        took_ms.append(1000 * (time.perf_counter() - began))
    tested = {name: value(plan.key, EPOCHS) for name in TEST}
    log.log_metrics({f"test/{name}": number for name, number in tested.items()}, EPOCHS)
    log.log_test_cases(
        [
            {"case": f"case {number}", "patient": f"case {number}"}
            | {name: value(f"{plan.key} {number}", 0) for name in TEST}
            for number in range(CASES)
        ]
    )
    log.close()
    write_json(folder / "report_ms.json", sorted(took_ms)[len(took_ms) // 2] if took_ms else 0.0)
    tune.report({"epoch": EPOCHS, "epochs": EPOCHS})


def value(key: str, epoch: int) -> float:
    """The Dice that a trial logs."""
    return round(zlib.crc32(key.encode()) % 1000 / 2000 + epoch / 1000, 6)


@contextlib.contextmanager
def nothing_trained() -> Iterator[None]:
    """Within the block a study's trials are simulated."""
    from ray import cloudpickle

    from segmamba.orchestration import study

    cloudpickle.register_pickle_by_value(sys.modules[simulated_trial.__module__])
    with mock.patch.object(study, "_trial_function", lambda: simulated_trial):
        yield


def simulated_study(folder: Path, trials: int, progress: ProgressDisplay, **options: Any) -> Study:
    """Run a study of `trials` simulated trials, a quarter of them an arm's, to its report."""
    from segmamba.orchestration.study import StudyOptions, run_study
    from segmamba.studies import Hypothesis, StudySpec

    spec = StudySpec(
        name="simulated",
        question="Is every result accounted for?",
        hypothesis=Hypothesis(
            claim="b is above a.", region="mean", contrasts=tuple((arm, "a") for arm in "bcd")
        ),
        baseline="a",
        arms={
            arm: {"optim.lr": lr} for arm, lr in zip("abcd", (1e-3, 2e-3, 3e-3, 4e-3), strict=True)
        },
    )
    chosen = StudyOptions(
        output=folder,
        seeds=max(1, trials // len(spec.arms)),
        viewer=False,
        changes={"phantom.cases": 8, "data.validation_cases": 1},
        **options,
    )
    with nothing_trained():
        return run_study(spec, chosen, progress)[0]


def results_of(study: Study) -> Path:
    """The folder that a study was given with --output."""
    return next(
        folder.parent
        for folder in Path(study.trials[0].folder).parents
        if folder.name == study.name
    )


def accounted(study: Study) -> tuple[int, list[str]]:
    """How many trials hold all that they should, and what is wrong with the first of the others."""
    from segmamba.orchestration.tracking.store import open_store
    from segmamba.orchestration.tracking.study_run import TRIAL_TAG

    store = open_store(results_of(study))
    runs = collections.Counter(
        run.data.tags.get(TRIAL_TAG) for run in store.search("tags.kind = 'trial'")
    )
    wrong = []
    for trial in study.trials:
        expected = [(epoch, value(trial.key, epoch)) for epoch in range(1, EPOCHS + 1)]
        if runs[trial.key] != 1 or trial.status != "FINISHED":
            wrong.append(f"{trial.key}: {trial.status}, {runs[trial.key]} runs")
        elif sorted(trial.history.get("val/dice_mean", [])) != expected:
            wrong.append(f"{trial.key}: epochs {trial.history.get('val/dice_mean')}")
        elif len(trial.test_cases) != CASES:
            wrong.append(f"{trial.key}: {len(trial.test_cases)} cases")
    return len(study.trials) - len(wrong), wrong[:5]


class Nodes:
    """A head without cores, and nodes that can be killed and replaced."""

    def __init__(self, cores: int, folder: Path) -> None:
        self.cores, self.folder, self.lock = cores, Path(folder), threading.Lock()
        self.groups: list[subprocess.Popen] = []
        self.hosts = 1
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{free.getsockname()[1]}"
        self.head = self._start(
            "--head",
            "--port",
            self.address.rpartition(":")[2],
            "--num-cpus",
            "0",
            "--include-dashboard",
            "false",
        )

    def add(self) -> None:
        """Start another node."""
        self.groups.append(self._start("--address", self.address, "--num-cpus", str(self.cores)))

    def replace_one(self) -> None:
        """Kill the oldest node without warning and start a new one."""
        with self.lock:
            self._kill(self.groups.pop(0))
            self.add()

    def stop(self) -> None:
        """Kill all nodes and the head."""
        with self.lock:
            for group in [*self.groups, self.head]:
                self._kill(group)

    def _start(self, *options: str) -> subprocess.Popen:
        self.hosts += 1
        # All addresses are this machine's; Ray accepts any of them but 127.0.0.1 for a node.
        host = f"127.0.0.{self.hosts}"
        command = [
            Path(sys.executable).with_name("ray"),
            "start",
            *options,
            "--node-ip-address",
            host,
            "--block",
            "--object-store-memory",
            str(OBJECT_STORE),
        ]
        output = self.folder / f"node{self.hosts}.log"
        with output.open("wb") as log:
            group = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while "Ray runtime started" not in output.read_text():
            if group.poll() is not None:
                raise RuntimeError(output.read_text())
            time.sleep(0.2)
        return group

    @staticmethod
    def _kill(group: subprocess.Popen) -> None:
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)
            group.wait()


class Counter(SilentProgress):
    """Progress in plain lines: when each trial ended, the driver's memory, what was said and when.

    Args:
        say: Called with the number of trials that are done, as each ends.
    """

    def __init__(self, at_end: Callable[[int], None] = lambda done: None) -> None:
        self.at_end, self.began = at_end, time.monotonic()
        self.ends_s: list[float] = []
        self.rss_mib: list[float] = []
        self.said_s: dict[str, float] = {}
        """First word of each line to when it was said."""

    def completed(self, key: str) -> None:
        self.ends_s.append(time.monotonic() - self.began)
        self.rss_mib.append(psutil.Process().memory_info().rss / 2**20)
        done = len(self.ends_s)
        if done % 100 == 0:
            rate = 100 / (self.ends_s[-1] - self.ends_s[-100] or 1)
            self.say(f"{done} trials: {rate:.1f} a second, {self.rss_mib[-1]:.0f} MiB")
        self.at_end(done)

    def failed(self, key: str, reason: str, log: object) -> None:
        self.say(f"{key} failed: {reason}")

    def say(self, text: str) -> None:
        now = time.monotonic() - self.began
        self.said_s.setdefault(text.split()[0], now)
        print(f"{now:7.1f} s  {text}", flush=True)

    def rate(self, ends: slice) -> float:
        """Trials a second in a part of the study."""
        part = self.ends_s[ends]
        return (len(part) - 1) / (part[-1] - part[0])


def cluster_figures(folder: Path, trials: int, nodes: int, cores: int, kills: int) -> Figures:
    """What such a study takes on such a cluster, then its `--resume` there."""
    # Before Ray is imported, which reads them then.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    cluster = Nodes(cores, folder)
    deaths_at = [round(trials * (i + 1) / (kills + 1)) for i in range(kills)]

    def kill_one(done: int) -> None:
        if deaths_at and done >= deaths_at[0]:
            deaths_at.pop(0)
            progress.say("a node is killed")
            threading.Thread(target=cluster.replace_one).start()

    progress = Counter(kill_one)
    try:
        for _ in range(nodes):
            cluster.add()
        study = simulated_study(folder, trials, progress, ray_address=cluster.address)
        count, wrong = accounted(study)
        for line in wrong:
            print(line)
        stop(study)
        again = Counter()
        simulated_study(folder, trials, again, ray_address=cluster.address, resume=True)
        resumed_s, over_s = again.said_s["resume"], time.monotonic() - again.began
    finally:
        cluster.stop()
    first, last = progress.rate(slice(None, WINDOW)), progress.rate(slice(-WINDOW, None))
    return {
        "simulated trials accounted for, with nodes killed": Figure(
            count, "trials", str(len(study.trials)), count == len(study.trials)
        ),
        "their time": Figure(progress.ends_s[-1] - progress.ends_s[0], "s"),
        f"trials a second, first {WINDOW}": Figure(first, "/s"),
        f"trials a second, last {WINDOW}": at_least(last, 0.8 * first, "/s"),
        "the driver's memory at most": below(max(progress.rss_mib), 1024, "MiB"),
        "`--resume` until it knows what is left": at_most(resumed_s, 10, "s"),
        "its report": at_most(over_s - resumed_s, 30, "s"),
    }


def stop(study: Study) -> None:
    """Let a study that has ended look as one that was stopped at its very end."""
    from segmamba.orchestration.tracking.store import open_store

    open_store(results_of(study)).end_run(study.parent_run_id, "KILLED")


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cores", type=int, default=2, help="of one node")
    parser.add_argument(
        "--kills",
        type=int,
        default=3,
        help="nodes that die while trials run, each replaced by a new one",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = cluster_figures(
            Path(folder), options.trials, options.nodes, options.cores, options.kills
        )
    report(figures, options.json, nodes=options.nodes, killed=options.kills)
    return any_missed(figures)


if __name__ == "__main__":
    sys.exit(main())
