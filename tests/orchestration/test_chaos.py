"""A study, an ensemble and a training end the same however often what they consist of is killed.

60 kills in 20 minutes, longer on a busy machine; SEGMAMBA_CHAOS_KILLS=8 and
SEGMAMBA_CHAOS_MINUTES=2 make a short one. Works are repeated until there were enough.
"""

import functools
import json
import os
import random
import re
import shutil
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.orchestration.chaos import FEWEST, LONGEST_S, WORKS, Chaos, alive, is_temporary, table
from tests.orchestration.chaos import start as start_work
from tests.orchestration.mlflow_server import Server

KILLS = int(os.environ.get("SEGMAMBA_CHAOS_KILLS", "60"))
LEAST_S = 60 * float(os.environ.get("SEGMAMBA_CHAOS_MINUTES", "20"))
SEED = 20
TIMES = re.compile(r"time/|system/|seconds|_s$|pareto/(inference|training)/")
"""Figures that a second run of the same finds otherwise: seconds, and what is chosen by them."""
VERSION = re.compile(r"\bversion \d+")
"""The number of a registered model, which counts all that the server has been given."""
SHARED_MEMORY = Path("/dev/shm")
TORCHS = re.compile(r"torch_(\d+)_.*")


@pytest.fixture
def places():
    """Two folders for temporary files of the works, with names short enough for Ray's sockets."""
    folders = [tempfile.mkdtemp(prefix="c", dir="/tmp") for _ in range(2)]
    yield [Path(folder) for folder in folders]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


def environment(server, place, experiment):
    own = {"TMPDIR": str(place), "MLFLOW_EXPERIMENT_NAME": experiment}
    return server.env | own | {"RAY_worker_niceness": "0"}  # a busy machine would starve trials


def untimed(value):
    """A value from JSON without the figures that are times or count a server's models."""
    if isinstance(value, dict):
        return {name: untimed(each) for name, each in value.items() if not TIMES.search(name)}
    if isinstance(value, str):
        return VERSION.sub("version N", value)
    return [untimed(each) for each in value] if isinstance(value, list) else value


def outcome(cwd, server, experiment):
    """Every figure that a work has left in its folder and in MLflow."""
    files = {
        str(path.relative_to(cwd)): untimed(json.loads(path.read_text()))
        for name in ("history.json", "final_metrics.json", "ensemble.json")
        for path in cwd.glob(f"Results/**/{name}")
    }
    reports = {str(path.relative_to(cwd)) for path in cwd.glob("Results/*/*.html")}
    client = MlflowClient(server.uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    runs = {run.info.run_name: run_outcome(client, run) for run in found}
    assert len(runs) == len(found), "no run is there twice"
    return {"files": files, "reports": reports, "runs": runs}


def run_outcome(client, run):
    """What MLflow has of a run."""
    # What a study logs at its end is logged again, the same, where it was killed just then.
    history = {
        name: {
            (metric.step, metric.value)
            for metric in client.get_metric_history(run.info.run_id, name)
        }
        for name in run.data.metrics
        if not TIMES.search(name)
    }
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    cases = None
    if "test_cases.json" in artifacts:
        path = client.download_artifacts(run.info.run_id, "test_cases.json")
        cases = untimed(json.loads(Path(path).read_text()))
    return {
        "kind": run.data.tags["kind"],
        "status": run.info.status,
        "history": history,
        "artifacts": artifacts,
        "test cases": cases,
    }


def finished(cwd, server, experiment):
    """Whether a work whose driver was killed at its very end has nothing left to do."""
    client = MlflowClient(server.uri)
    marks = list(cwd.glob("Results/SegMamba_Run*/run.json"))
    if marks:
        return all(json.loads(mark.read_text())["finished"] for mark in marks)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], "tags.kind = 'study'") if found else []
    return bool(runs) and all(run.info.status == "FINISHED" for run in runs)


def temporaries(folder):
    """What is hidden or half-made below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if is_temporary(path)}


def of_this_session(place):
    """The processes that the works have started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.Error, OSError):
            continue
        if any(str(place) in word for word in words) and process.pid != os.getpid():
            found.append(process)
    return alive(found)


def orphans(chaos, place):
    """Processes that are there a minute after the last work has ended, at the latest."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        left = {*alive(chaos.seen), *of_this_session(place)}
        if not left or time.monotonic() > deadline:
            return {process.pid: process.cmdline() for process in left}
        time.sleep(0.5)


def left_in_shared_memory(before):
    """What torch shared in processes that are gone."""
    new = {path.name for path in SHARED_MEMORY.iterdir()} - before
    return {
        name
        for name in new
        if (made := TORCHS.fullmatch(name)) and not psutil.pid_exists(int(made[1]))
    }


@pytest.fixture(scope="module")
def shared_before():
    return {path.name for path in SHARED_MEMORY.iterdir()}


def disturbed(chaos, folder, place):
    """Run the works in turn until there were kills enough; (work, folder, experiment) of each."""
    rounds = []
    while not chaos.over or len(rounds) < len(WORKS):
        work = list(WORKS)[len(rounds) % len(WORKS)]
        experiment = f"{work}-{len(rounds)}"
        cwd = folder / experiment
        cwd.mkdir(parents=True)
        env = environment(chaos.server, place, experiment)
        chaos.run(work, cwd, env, functools.partial(finished, cwd, chaos.server, experiment))
        rounds.append((work, cwd, experiment))
    chaos.settle()
    chaos.await_server()
    print(table(chaos), flush=True)
    print(f"ended as undisturbed: {', '.join(name for *_, name in rounds)}", flush=True)
    return rounds


def undisturbed(server, folder, place):
    """{work: its folder} of each, once, and {work: its outcome}."""
    folders, outcomes = {}, {}
    for work in WORKS:
        cwd, experiment, began = folder / work, f"calm-{work}", time.monotonic()
        cwd.mkdir(parents=True)
        process = start_work(work, cwd, environment(server, place, experiment))
        output, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, output
        print(f"undisturbed {work}: {time.monotonic() - began:.0f} s", flush=True)
        folders[work], outcomes[work] = cwd, outcome(cwd, server, experiment)
    return folders, outcomes


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_kills_of_all_that_takes_part_change_no_result_and_leave_nothing(
    tmp_path, places, server, shared_before, capsys
):
    chaos = Chaos(server, random.Random(SEED), KILLS, LEAST_S)
    with capsys.disabled():
        rounds = disturbed(chaos, tmp_path / "disturbed", places[0])
        left = orphans(chaos, places[0])
        calm, expected = undisturbed(server, tmp_path / "calm", places[1])
    assert not left
    for work, cwd, experiment in rounds:
        found = outcome(cwd, server, experiment)
        assert {run["status"] for run in found["runs"].values()} == {"FINISHED"}, experiment
        assert found == expected[work], experiment
        assert temporaries(cwd) <= temporaries(calm[work]), experiment
    assert temporaries(places[0]) <= temporaries(places[1])
    assert not left_in_shared_memory(shared_before)
    assert min(chaos.hits().values()) >= min(FEWEST, KILLS // 8)
    slowest = {
        kind: max((kill.noticed_s or 0 for kill in chaos.done if kill.kind == kind), default=0)
        for kind in chaos.hits()
    }
    assert slowest["driver"] < LONGEST_S and max(slowest["raylet"], slowest["gcs_server"]) < 30
