"""A study on a cluster of several Ray nodes, all on this machine's loopback address."""

import contextlib
import dataclasses
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from segmamba.errors import UserError
from segmamba.orchestration.engine import cluster, cluster_nodes
from segmamba.orchestration.engine.machine import Node
from tests.orchestration.faults import (
    ROOT,
    STUDY,
    assert_as_if_nothing_had_happened,
    command,
    finish,
    runs,
    start,
    wait_for,
)

RAY = Path(sys.executable).with_name("ray")


def join(cwd, nodes, *options, **variables):
    """A study on a cluster: a fresh process, since Ray reads its token when it is imported."""
    return subprocess.Popen(
        [*map(str, command("--ray-address", nodes.address, *options))],
        cwd=cwd,
        env={**nodes.env, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


class Nodes:
    """A head without cores and nodes with some: `ray start`, each in a process group of its own."""

    def __init__(self, folder):
        self.folder, self.groups = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{free.getsockname()[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.env = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0"}
        # A test in this process that started Ray on this machine alone has set it for good.
        self.env.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)

    def begin(self):
        self._ray(
            "--head",
            "--port",
            self.address.rpartition(":")[2],
            "--num-cpus",
            "0",
            "--include-dashboard",
            "false",
        )

    def add(self, cores=1):
        self._ray("--address", self.address, "--num-cpus", str(cores))
        return self.groups[-1]

    def _ray(self, *options):
        with (self.folder / f"node{len(self.groups)}.log").open("wb") as log:
            # All of them are this machine; Ray takes 127.0.0.1 for no address of a node.
            host = f"127.0.0.{2 + len(self.groups)}"
            command = [
                RAY,
                "start",
                *options,
                "--node-ip-address",
                host,
                "--block",
                "--object-store-memory",
                str(100 * 2**20),
            ]
            self.groups.append(
                subprocess.Popen(
                    command, env=self.env, stdout=log, stderr=log, start_new_session=True
                )
            )
        deadline = time.monotonic() + 300
        while (
            "Ray runtime started"
            not in (self.folder / f"node{len(self.groups) - 1}.log").read_text()
        ):
            assert time.monotonic() < deadline and self.groups[-1].poll() is None, (
                self.folder / f"node{len(self.groups) - 1}.log"
            ).read_text()
            time.sleep(0.2)

    def end(self):
        for group in self.groups:
            if group.poll() is None:
                self.kill(group)

    @staticmethod
    def kill(group):
        """As if its plug were pulled."""
        os.killpg(group.pid, signal.SIGKILL)
        group.wait()


@pytest.fixture
def nodes(tmp_path):
    (tmp_path / "nodes").mkdir()
    nodes = Nodes(tmp_path / "nodes")
    nodes.begin()
    yield nodes
    nodes.end()


@pytest.fixture
def later_nodes(tmp_path):
    """Nodes that have an address and a token, and have not begun."""
    (tmp_path / "nodes").mkdir()
    nodes = Nodes(tmp_path / "nodes")
    yield nodes
    nodes.end()


@pytest.mark.slow
def test_a_study_that_is_started_before_its_cluster_waits_for_it(later_nodes, tmp_path):
    nodes = later_nodes
    study = join(tmp_path, nodes)
    while "is not there yet" not in (line := study.stdout.readline()):
        assert line, "it waits"
    nodes.begin()
    nodes.add()
    finish(study)


@pytest.mark.slow
def test_a_wrong_token_is_one_line(nodes, tmp_path):
    output = finish(join(tmp_path, nodes, RAY_AUTH_TOKEN=secrets.token_hex(16)), code=2)
    *before, line = output.splitlines()
    assert (
        f"--ray-address {nodes.address}: no cluster can be joined there (the cluster takes" in line
    )
    assert all("cases: 6" in other for other in before), (
        "Ray's own lines, one a second, are not ours"
    )


@pytest.mark.slow
def test_a_trial_whose_node_dies_goes_on_from_its_last_checkpoint_on_another(nodes, tmp_path):
    (tmp_path / "calm").mkdir()
    finish(start(tmp_path / "calm"))
    first = nodes.add()
    study = join(tmp_path, nodes)
    wait_for(
        lambda: list(tmp_path.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth")),
        study,
        "first epoch",
    )
    nodes.kill(first)
    nodes.add()
    output = finish(study)
    assert "1 node with 1 core" not in output, "what runs where is no news on the terminal"
    assert "raylet" not in output and output.count("node     127.0.0.3 is gone") == 1, (
        "Ray's four lines are one of ours"
    )
    assert_as_if_nothing_had_happened(tmp_path, tmp_path / "calm")
    assert nodes.groups[0].poll() is None and nodes.groups[-1].poll() is None, (
        "a cluster that was joined goes on"
    )


@pytest.mark.slow
def test_the_death_of_the_clusters_head_ends_a_study_in_a_line(nodes, tmp_path):
    nodes.add()
    study = join(tmp_path, nodes)
    wait_for(
        lambda: list(tmp_path.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth")),
        study,
        "first epoch",
    )
    died = time.monotonic()
    nodes.kill(nodes.groups[0])
    output, _ = study.communicate(timeout=120)
    assert time.monotonic() - died < 45, "it is not Ray's minute"
    assert study.returncode == 1 and "Traceback" not in output, output
    assert output.splitlines()[-1] == (
        f"error: the head of the cluster at {nodes.address} has not answered for 20 s; what was "
        "trained is kept, --resume goes on with it"
    )
    by_kind, _ = runs(tmp_path)
    assert {run.info.status for run in by_kind.values()} == {"KILLED"}


@pytest.mark.slow
def test_each_node_may_have_a_cache_of_its_own(nodes, tmp_path):
    nodes.env |= {"OWN_DISK": str(tmp_path / "own")}
    nodes.add()
    finish(join(tmp_path, nodes, "--cache", "$OWN_DISK/cases"))
    assert (
        list((tmp_path / "own" / "cases").glob("*/case.json"))
        and not (tmp_path / "Results" / "cache").exists()
    )


@pytest.mark.slow
def test_a_plan_is_made_for_the_cluster_and_measured_on_a_node_unless_nodes_differ(nodes, tmp_path):
    nodes.env |= {"OWN_DISK": str(tmp_path / "own")}
    groups = [nodes.add(), nodes.add()]
    asked = (
        "--plan",
        "--cpus",
        "0",
        "--arms",
        "depth 0",
        "--cache",
        "$OWN_DISK/cases",
    )
    study = join(tmp_path, nodes, *asked)
    measuring = wait_for(
        lambda: [group for group in groups if "_rehearse_there" in titles(group)],
        study,
        "process that measures on a node",
    )
    output = " ".join(finish(study).split())
    assert len(measuring) == 1, "what is measured at once shares one node"
    assert (
        "machine 2 nodes with 2 cores; measured on 1 core of" in output
        and "trials 2, 2 at once, 1 core each; about" in output
    ), output
    assert "note --arms leaves out: depth 1," in output and not list(
        tmp_path.glob("Results/*_Run*")
    ), "a plan says the notes and begins nothing"
    nodes.add(cores=2)
    output = " ".join(finish(join(tmp_path, nodes, *asked)).split())
    assert (
        "machine 3 nodes with 4 cores trials 2, 2 at once, 1 core each time not measured, "
        "since the nodes differ:" in output
    ), output


def titles(group):
    """What the processes of a node call themselves."""
    command_lines = []
    for process in psutil.Process(group.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            command_lines.append(" ".join(process.cmdline()))
    return " ".join(command_lines)


def test_trials_run_on_the_nodes_with_gpus_where_there_are_any():
    head = Node(id="1", host="head", cpu="EPYC", gpu="", gpus=0, gpu_bytes=0, cores=64)
    worker = dataclasses.replace(
        head, id="2", host="b", gpu="H100", gpus=1, gpu_bytes=80 * 2**30, cores=4
    )
    other = dataclasses.replace(worker, id="3", host="a")
    both = cluster_nodes.machine_of([head, worker, other], 1)
    assert (
        both.name == "2 nodes with 8 cores and 2 x H100"
        and [node.host for node in both.nodes] == ["a", "b"]
        and not both.differing
    )
    assert (both.gpus, both.gpu_bytes, both.cores) == (2, 80 * 2**30, 8)
    unlike = cluster_nodes.machine_of([worker, dataclasses.replace(other, gpu="A100")], 1)
    assert (
        unlike.differing == "a has 4 cores and 1 x A100 of 80 GiB, b 4 cores and 1 x H100 of 80 GiB"
    )
    assert cluster_nodes.machine_of([head], 1).name == "1 node with 64 cores"


def test_a_nodes_death_is_one_line_and_what_else_ray_reports_stays(capsys):
    from ray._private import worker

    death = (
        "The node with node id: ec4d0d and address: 10.0.0.2 and node name: b has been marked dead "
        "because the detector has missed too many heartbeats from it. This can happen when a "
        "\t(1) raylet crashes unexpectedly (OOM, etc.) \n\t(2) raylet has lagging heartbeats."
    )
    with cluster.node_deaths_in_a_line():
        for line in (death, "A worker was killed: the node is low on memory"):
            worker.print_to_stdstream(
                {"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False
            )
    printed = capsys.readouterr()
    assert printed.err == (
        "node     10.0.0.2 is gone; "
        "what ran there goes on from its last checkpoint on another node\n"
    )
    assert "low on memory" in printed.out and "marked dead" not in printed.out
    assert worker.print_to_stdstream.__module__ == worker.__name__, "Ray is as it was"


REPORT = cluster_nodes.NodeReport(
    sees_output=True,
    can_write=True,
    machine="elsewhere",
    python="3.11",
    memory_bytes=1,
    cpu="EPYC",
    gpu="",
    gpu_bytes=0,
)


@pytest.mark.parametrize(
    ("changes", "store", "message"),
    [
        (
            {"sees_output": False},
            "http://server:5000",
            "node b does not see this folder; --output must be a folder that all nodes share",
        ),
        ({"can_write": False}, "http://server:5000", "node b may not write there"),
        (
            {},
            "sqlite:///Results/mlflow.db",
            "node b is another machine, and the MLflow store .* is a SQLite file",
        ),
    ],
)
def test_a_node_that_cannot_take_part_is_named_before_anything_begins(changes, store, message):
    output, unfit = Path("/data/Results"), dataclasses.replace(REPORT, **changes)
    with pytest.raises(UserError, match=message):
        cluster_nodes.check_reports({"b": unfit}, output, store)
    cluster_nodes.check_reports({"b": REPORT}, output, "http://server:5000")


def test_the_code_that_travels_is_small():
    (package,) = cluster.shipped()["py_modules"]
    size = sum(
        path.stat().st_size
        for path in Path(package).rglob("*")
        if path.suffix not in (".pyc",) and path.is_file()
    )
    assert Path(package).name == "segmamba" and size < 4 * 2**20


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_alone_and_its_files_are_private(monkeypatch):
    place = tempfile.TemporaryDirectory(dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", place.name)
    code = """
import os, psutil, stat, sys
from segmamba.orchestration.engine.cluster import machine_for, ray_here
with machine_for(None, 1, ".", "") as machine, ray_here(machine, lambda: None):
    for folder in os.scandir(os.environ["RAY_TMPDIR"]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        print(*[c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    addresses = set(done.stdout.split())
    assert addresses and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, (
        done.stdout + done.stderr
    )
