"""A thousand trials on a cluster whose nodes die on the way: is every result accounted for?

    python benchmarks/simulated_cluster.py [--trials 1000] [--nodes 4] [--cores 2] [--kills 3] \\
        [--json FILE]

The trials train nothing. Scheduling, restarts, MLflow runs and statuses are the engine's own; only
the training is replaced, by a few numbers that are written to the trial's folder and logged epoch
by epoch. All Ray nodes run on this machine, each a process group that is killed as a whole. A trial
is accounted for where it has one FINISHED run with every epoch once and the value that its seed
gives, and nothing is left RUNNING.
"""

from __future__ import annotations

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from figures import Figure, command_line, report
from segmamba.orchestration.engine.progress import SilentProgress

if TYPE_CHECKING:
    from segmamba.orchestration.engine.context import StudyContext
    from segmamba.studies.spec import TrialPlan

EPOCHS = 3
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
    history = json.loads(kept.read_text()) if kept.exists() else []
    tags = context.trial_tags(plan) | {FOLDER_TAG: str(folder)}
    log = context.run.trial_log(plan.key, tags)
    log._wants_monitor = False  # a sampler of the machine's load a trial would measure itself
    log.log_history(history)
    took_ms = []
    for epoch in range(len(history) + 1, EPOCHS + 1):
        metrics = {
            f"val/dice_{region}": value(plan.seed, epoch) for region in ("mean", "ET", "TC", "WT")
        } | {"train/loss": 1.0 / epoch}
        history.append({"epoch": epoch} | metrics)
        write_json(kept, history)
        began = time.perf_counter()
        log.log_history(history[-1:])
        tune.report({"epoch": epoch, "epochs": EPOCHS} | metrics)
        took_ms.append(1000 * (time.perf_counter() - began))
    log.close()
    write_json(folder / "report_ms.json", sorted(took_ms)[len(took_ms) // 2] if took_ms else 0.0)
    tune.report({"epoch": EPOCHS, "epochs": EPOCHS})


def value(seed: int, epoch: int) -> float:
    """The Dice that a trial logs."""
    return round((seed * 7919 % 1000) / 1000 + epoch / 1000, 6)


def simulated_study(folder: Path, trials: int) -> tuple[StudyContext, list[TrialPlan]]:
    """A study's context and trials; its store and parent run are made in `folder`."""
    from segmamba.config import preset
    from segmamba.data.splits import Split
    from segmamba.orchestration.engine.context import StudyContext
    from segmamba.orchestration.tracking.store import open_store
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.studies.spec import TrialPlan

    folder = Path(folder).resolve()
    store = open_store(folder)
    parent = store.create_run("simulated", {"kind": "study"})
    split = Split([], [], [], False, ())
    context = StudyContext(
        {"a": preset("demo")},
        {None: ({}, split)},
        folder,
        StudyRun(store, parent),
        {"dataset": "none"},
        1,
        "auto",
        "a",
    )
    return context, [TrialPlan(arm="a", seed=seed) for seed in range(trials)]


def accounted(context: StudyContext, plans: list[TrialPlan]) -> tuple[int, list[str]]:
    """How many runs hold all that they should, and what is wrong with the first of the others."""
    from segmamba.orchestration.tracking.study_run import TRIAL_TAG

    client = context.run.store.client
    runs: dict[str, list[Any]] = {}
    for run in context.run.children():
        runs.setdefault(run.data.tags[TRIAL_TAG], []).append(run)
    wrong = []
    for plan in plans:
        mine = runs.get(plan.key, [])
        if len(mine) != 1 or mine[0].info.status != "FINISHED":
            wrong.append(f"{plan.key}: {[run.info.status for run in mine]}")
            continue
        logged = {
            (m.step, m.value)
            for m in client.get_metric_history(mine[0].info.run_id, "val/dice_mean")
        }
        if logged != {(epoch, value(plan.seed, epoch)) for epoch in range(1, EPOCHS + 1)}:
            wrong.append(f"{plan.key}: epochs {sorted(logged)}")
    return len(plans) - len(wrong), wrong[:5]


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
    """Progress in plain lines, which kills a node each time another share of the trials is done."""

    def __init__(self, trials: int, nodes: Nodes, kills: int) -> None:
        self.trials, self.nodes, self.began = trials, nodes, time.monotonic()
        self.done, self.deaths_at = 0, [round(trials * (i + 1) / (kills + 1)) for i in range(kills)]

    def completed(self, key: str) -> None:
        self.done += 1
        state = f"{self.done} trials done after {time.monotonic() - self.began:.0f} s"
        if self.deaths_at and self.done >= self.deaths_at[0]:
            self.deaths_at.pop(0)
            print(f"{state}; a node is killed", flush=True)
            threading.Thread(target=self.nodes.replace_one).start()
        elif self.done % 100 == 0:
            print(state, flush=True)

    def failed(self, key: str, reason: str, log: object) -> None:
        print(f"{key} failed: {reason}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)


def run(trials: int, nodes: int, cores: int, kills: int, folder: Path) -> dict[str, Any]:
    """Run such a study on such a cluster; what is "accounted", what is "wrong", and "seconds"."""
    # Before Ray is imported, which reads them then.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    from segmamba.orchestration.engine import launch, trainable
    from segmamba.orchestration.engine.cluster import machine_for
    from segmamba.orchestration.engine.resources import Resources

    context, plans = simulated_study(folder, trials)
    cluster = Nodes(cores, folder)
    try:
        for _ in range(nodes):
            cluster.add()
        with machine_for(cluster.address, 0, folder, context.run.store.uri) as machine:
            print(f"{machine.name}; {trials} trials, {kills} nodes will be killed", flush=True)
            trainable.run_trial = simulated_trial
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[simulated_trial.__module__])
            resources = Resources(
                gpus=0,
                cpus=1,
                threads=1,
                at_once=machine.cores,
                cores=machine.cores,
                compile="auto",
            )
            began = time.monotonic()
            launch.TrialLauncher(context, resources, Counter(trials, cluster, kills)).run_trials(
                plans, scheduler="none", base=context.configs["a"]
            )
            seconds = time.monotonic() - began
    finally:
        cluster.stop()
    count, wrong = accounted(context, plans)
    return {"accounted": count, "wrong": wrong, "seconds": seconds}


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
        result = run(options.trials, options.nodes, options.cores, options.kills, Path(folder))
    holds = result["accounted"] == options.trials
    for line in result["wrong"]:
        print(line)
    figures = {
        "simulated trials accounted for, with nodes killed": Figure(
            result["accounted"], "trials", str(options.trials), holds
        ),
        "their time": Figure(result["seconds"], "s"),
    }
    report(figures, options.json, nodes=options.nodes, killed=options.kills)
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
