"""Ray's start on machines that are busy, have little memory to share or no free port."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from segmamba.errors import UserError
from segmamba.orchestration.engine import cluster, ray_start
from segmamba.orchestration.engine.machine import this_machine
from tests.orchestration.faults import command, runs

NARROW = "ip link set lo up && echo 32768 32770 > /proc/sys/net/ipv4/ip_local_port_range"
SMALL = "mount -t tmpfs -o size=64m tmpfs /dev/shm && head -c 64M /dev/zero > /dev/shm/full"


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("failures", [2, 3])
def test_ray_is_started_again_on_a_machine_that_is_too_busy_for_it(failures, monkeypatch):
    tried = []

    def init(**options):
        tried.append(options["address"])
        if len(tried) <= failures:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(ray_start, "PAUSE_S", 0.0)
    if failures < ray_start.STARTS:
        with cluster.ray_here(this_machine(1), lambda: "prepared") as prepared:
            assert prepared == "prepared"
    else:
        message = r"Ray does not start on this machine \(The current node timed out during startup"
        with (
            pytest.raises(UserError, match=message),
            cluster.ray_here(this_machine(1), lambda: "prepared"),
        ):
            pass
    assert tried == ["local"] * 3


def test_an_address_where_no_cluster_comes_up_gets_one_line_after_a_while(monkeypatch, capsys):
    address, tried = free_address(), []
    monkeypatch.setattr(ray_start, "JOIN_PATIENCE_S", 0.2)
    monkeypatch.setattr(ray_start, "JOIN_PAUSE_S", 0.05)
    monkeypatch.setattr("ray.init", lambda **options: tried.append(options))
    with pytest.raises(
        UserError, match=rf"--ray-address {address}: no cluster can be joined there \(.*refused\)"
    ):
        cluster.ray_cluster(address, "Results", "sqlite:///x").__enter__()
    printed = capsys.readouterr().err
    assert not tried and printed.count("\n") == 1 and f"{address} is not there yet" in printed


def test_a_cluster_that_refuses_gets_one_line_at_once(monkeypatch):
    def refuse(**options):
        raise RuntimeError("InvalidAuthToken: the token is another one\nmore")

    monkeypatch.setattr("ray.init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=r"\(InvalidAuthToken: the token is another one\)"):
            cluster.ray_cluster(address, "Results", "sqlite:///x").__enter__()


def test_a_cluster_that_comes_up_later_is_joined(monkeypatch):
    address, up = free_address(), threading.Event()
    host, port = address.split(":")
    monkeypatch.setattr(ray_start, "JOIN_PAUSE_S", 0.01)
    servers = []

    def come_up():
        assert up.wait(60)
        servers.append(socket.create_server((host, int(port))))

    def connect():
        if not answered:  # the port is there before what answers on it
            answered.append("not yet")
            raise ConnectionError("Failed to connect to Ray cluster")
        answered.append("joined")

    answered = []
    thread = threading.Thread(target=come_up)
    thread.start()
    monkeypatch.setattr(ray_start.time, "sleep", lambda seconds: up.set() or thread.join(60))
    ray_start.join(address, connect)
    assert answered == ["not yet", "joined"]
    servers[0].close()


def study_in(namespace, preparation, cwd):
    """A tiny study whose process has a namespace of its own: (exit code, output)."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    inside = ["unshare", namespace, "sh", "-c"]
    if subprocess.run([*inside, preparation], capture_output=True).returncode:
        pytest.skip(f"needs root, to do this in a namespace: {preparation}")
    done = subprocess.run(
        [*inside, f'{preparation} && exec "$@"', "sh", *map(str, command())],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout


def test_ports_are_counted_before_ray_would_wait_for_them():
    code = "from segmamba.orchestration.engine.ray_start import check_ports; check_ports(2)"
    inside = ["unshare", "--net", "sh", "-c", f'{NARROW} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"]).returncode:
        pytest.skip("needs root, for a network namespace")
    done = subprocess.run([*inside, sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(r"of the 24 TCP ports that it takes [23] are free", done.stderr)
    ray_start.check_ports(2)


@pytest.mark.slow
def test_a_machine_without_free_ports_gets_one_line_within_a_minute_or_two(tmp_path):
    code, output = study_in("--net", NARROW, tmp_path)
    assert code == 2 and "Traceback" not in output, output
    *before, line = output.splitlines()
    assert re.fullmatch(
        r"error: Ray does not start .*: of the \d+ TCP ports .* [23] are free; .*", line
    )
    assert not any("rpc_client" in other or "gcs" in other for other in before), output


@pytest.mark.slow
def test_a_full_shared_memory_of_64_mb_is_no_hindrance(tmp_path):
    code, output = study_in("--mount", SMALL, tmp_path)
    assert code == 0 and "Traceback" not in output, output
    runs(tmp_path)


@pytest.mark.slow
def test_ray_starts_beside_many_busy_processes(tmp_path):
    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(8 * len(os.sched_getaffinity(0)))
    ]
    try:
        code, output = study_in("--net", "ip link set lo up", tmp_path)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    if code:
        assert code == 2 and "Traceback" not in output, output
        assert output.splitlines()[-1].startswith("error: Ray does not start on this machine (")
