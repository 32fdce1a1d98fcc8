"""A study on a cluster of several Ray nodes, all on this machine's loopback address."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segmamba.errors import UserError
from segmamba.orchestration.engine import cluster
from tests.orchestration.faults import (
    STUDY,
    assert_as_if_nothing_had_happened,
    finish,
    start,
    wait_for,
)

RAY = Path(sys.executable).with_name("ray")


class Nodes:
    """A head without cores and nodes with one each: `ray start`, each in a process group of its own."""

    def __init__(self, folder):
        self.folder, self.groups = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.2", 0))
            self.address = f"127.0.0.2:{free.getsockname()[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.env = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0"}
        self._ray("--head", "--port", self.address.rpartition(":")[2], "--num-cpus", "0", "--include-dashboard", "false")

    def add(self):
        self._ray("--address", self.address, "--num-cpus", "1")
        return self.groups[-1]

    def _ray(self, *options):
        with (self.folder / f"node{len(self.groups)}.log").open("wb") as log:
            host = f"127.0.0.{2 + len(self.groups)}"  # all of them are this machine; Ray takes 127.0.0.1 for no address of a node
            command = [RAY, "start", *options, "--node-ip-address", host, "--block", "--object-store-memory", str(100 * 2**20)]
            self.groups.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True))
        deadline = time.monotonic() + 300
        while "Ray runtime started" not in (self.folder / f"node{len(self.groups) - 1}.log").read_text():
            assert time.monotonic() < deadline and self.groups[-1].poll() is None, (self.folder / f"node{len(self.groups) - 1}.log").read_text()
            time.sleep(0.2)

    @staticmethod
    def kill(group):
        """As if its plug were pulled."""
        os.killpg(group.pid, signal.SIGKILL)
        group.wait()


@pytest.fixture
def nodes(tmp_path):
    (tmp_path / "nodes").mkdir()
    nodes = Nodes(tmp_path / "nodes")
    yield nodes
    for group in nodes.groups:
        if group.poll() is None:
            nodes.kill(group)


@pytest.mark.slow
def test_a_trial_whose_node_dies_goes_on_from_its_last_checkpoint_on_another(nodes, tmp_path):
    (tmp_path / "calm").mkdir()
    finish(start(tmp_path / "calm"))
    first = nodes.add()
    study = start(tmp_path, "--ray-address", nodes.address, env=nodes.env)
    wait_for(lambda: list(tmp_path.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth")), study, "first epoch")
    nodes.kill(first)
    nodes.add()
    output = finish(study)
    assert "1 nodes with 1 cores" not in output, "what runs where is no news on the terminal"
    assert_as_if_nothing_had_happened(tmp_path, tmp_path / "calm")
    assert nodes.groups[0].poll() is None and nodes.groups[-1].poll() is None, "a cluster that was joined goes on"


@pytest.mark.slow
def test_each_node_may_have_a_cache_of_its_own(nodes, tmp_path):
    nodes.env |= {"OWN_DISK": str(tmp_path / "own")}
    nodes.add()
    finish(start(tmp_path, "--ray-address", nodes.address, "--cache", "$OWN_DISK/cases", env=nodes.env))
    assert list((tmp_path / "own" / "cases").glob("*/case.json")) and not (tmp_path / "Results" / "cache").exists()


def test_an_address_where_no_cluster_is_gets_one_line(monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("ray client connection timeout\nmore")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match=r"--ray-address 10.0.0.1:6379: no cluster can be joined there \(ray client connection timeout\)"):
        cluster.ray_cluster("10.0.0.1:6379", "Results", "sqlite:///x").__enter__()


SEEN = {"sees_output": True, "can_write": True, "machine": "elsewhere", "python": "3.11", "memory_bytes": 1, "gpu": "", "gpu_bytes": 0}


@pytest.mark.parametrize(
    ("seen", "store", "told"),
    [
        ({"sees_output": False}, "http://server:5000", "node b does not see this folder; --output must be a folder that all nodes share"),
        ({"can_write": False}, "http://server:5000", "node b may not write there"),
        ({}, "sqlite:///Results/mlflow.db", "node b is another machine, and the MLflow store .* is a SQLite file"),
    ],
)
def test_a_node_that_cannot_take_part_is_named_before_anything_begins(seen, store, told):
    with pytest.raises(UserError, match=told):
        cluster._check({"b": SEEN | seen}, Path("/data/Results"), store)
    cluster._check({"b": SEEN}, Path("/data/Results"), "http://server:5000")


def test_the_code_that_travels_is_small():
    (package,) = cluster.shipped()["py_modules"]
    size = sum(path.stat().st_size for path in Path(package).rglob("*") if path.suffix not in (".pyc",) and path.is_file())
    assert Path(package).name == "segmamba" and size < 4 * 2**20


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_alone():
    code = """
import psutil
from segmamba.orchestration.engine.cluster import machine_for, ray_here
with machine_for(None, 1, ".", "") as machine, ray_here(machine.cores):
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        print(*[c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert set(told.stdout.split()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"} and told.stdout.split(), told.stdout + told.stderr
