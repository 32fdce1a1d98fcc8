"""Where Ray runs: a Ray of our own on this machine, which only this machine can reach, or a cluster that is there already."""

import dataclasses
import functools
import logging
import os
import re
import signal
import socket
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import segmamba
from segmamba.errors import UserError
from segmamba.orchestration.engine.machine import Machine, Node, this_machine

OBJECT_STORE_BYTES = (
    256 * 2**20
)  # trials exchange paths and numbers only; Ray's default would take 30 % of the memory
FOR_RAY = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}  # ASHA waits for a metric, as it should: not every epoch evaluates validation
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SENT_TO_ALL_S = 1.0  # within which Ray's processes end on a SIGTERM that they got as well
PROBE_S = 120  # for a node to answer: its first worker process must start and unpack the code
NODE_GONE = re.compile(r"node with node id: \w+ and address: (\S+) .*has been marked dead")
SHARED_HINT = "--output must be a folder that all nodes share, at the same path"


@contextmanager
def machine_for(address, cores, output, store_uri):
    """The Machine that a study will run on: this one, for `ray_here`, or the cluster at `address`, to which the block is connected.

    To be entered before Ray is imported: what it binds to is decided then.
    """
    os.environ |= FOR_RAY
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
            "0"  # on any system: Ray names this node, and binds to, the loopback address
        )
        yield this_machine(cores)
        return
    with ray_cluster(address, output, store_uri) as machine:
        yield dataclasses.replace(machine, cores=min(machine.cores, cores or machine.cores))


@contextmanager
def ray_here(machine, meanwhile=lambda: None, waiting=None):
    """Ray on this machine, with so many of its cores, until the block ends. The block gets what `meanwhile()` returns, called while Ray starts.

    waiting: an ExitStack, whose end waits for that of Ray's processes, which takes a second; without one the block's does.
    """
    import psutil
    import ray

    with ThreadPoolExecutor(1) as beside:
        prepared = beside.submit(meanwhile)
        _without_noise(
            lambda: ray.init(
                address="local",
                num_cpus=machine.cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=OBJECT_STORE_BYTES,
            )
        )
        with _until_done(ray, psutil.Process().children(), waiting):
            yield prepared.result()


@contextmanager
def ray_cluster(address, output, store_uri):
    """The Machine that the nodes of the cluster at `address` are together, after a look at each; connected until the block ends.

    Raises UserError where it cannot be reached, where a node cannot run the code, see `output`, or use the MLflow store at `store_uri`.
    """
    import ray

    try:
        _without_noise(
            lambda: ray.init(
                address=address, log_to_driver=False, logging_level="ERROR", runtime_env=shipped()
            )
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"--ray-address {address}: no cluster can be joined there ({_first_line(error)}); see `ray status`, and ~/.ray/auth_token must be the "
            "cluster's (docs/cluster.md)"
        ) from error

    with _until_done(ray, []), node_deaths_in_a_line():
        yield _look_at_nodes(ray, Path(output).resolve(), store_uri)


@contextmanager
def node_deaths_in_a_line():
    """Ray prints what its head reports to stdout, whatever its log level; a node's death becomes a line on stderr, the rest passes."""
    from ray._private import worker

    printed = getattr(
        worker, "print_to_stdstream", None
    )  # private: where a Ray has it no more, its own words appear

    def show(data, *args, **options):
        gone = NODE_GONE.search(" ".join(data["lines"]))
        if gone:
            print(
                f"node     {gone[1]} is gone; what ran there goes on from its last checkpoint on another node",
                file=sys.stderr,
            )
        else:
            printed(data, *args, **options)

    if printed:
        worker.print_to_stdstream = show
    try:
        yield
    finally:
        if printed:
            worker.print_to_stdstream = printed


def shipped():
    """Ray's runtime environment: this package, a megabyte of source, in front of whatever a node has installed."""
    return {
        "py_modules": [str(Path(segmamba.__file__).parent)],
        "excludes": ["**/__pycache__/**", "*.pyc"],
    }


@contextmanager
def _until_done(ray, processes, waiting=None):
    """processes: Ray's own, that this process has started."""
    ending = threading.Thread(target=ray.shutdown)
    with ExitStack() as here:
        waiting = waiting or here
        waiting.callback(
            ending.join
        )  # now, and not when it starts: what `waiting` is given meanwhile ends first
        waiting.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        signal.signal(
            signal.SIGTERM, functools.partial(_as_sigint, processes)
        )  # after ray.init, which installs a handler that aborts
        try:
            yield
        finally:
            ending.start()


def _look_at_nodes(ray, output, store_uri):
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if not nodes:
        raise UserError(
            "--ray-address: no node of the cluster offers a CPU core; start one with ray start --address=..."
        )
    token = output / f".seen_by_all_nodes_{uuid.uuid4().hex}"
    token.write_text("may be deleted\n")
    try:
        probe = ray.remote(num_cpus=1, max_retries=0)(look_around)
        asked = {
            node["NodeID"]: probe.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(token))
            for node in nodes
        }
        _, missing = ray.wait(list(asked.values()), num_returns=len(asked), timeout=PROBE_S)
        if missing:
            raise UserError(
                f"--ray-address: {len(missing)} of {len(nodes)} nodes did not answer within {PROBE_S} s; see ray status"
            )
        told, found = {}, []
        for node in nodes:
            try:
                told[node["NodeManagerHostname"]] = seen = ray.get(asked[node["NodeID"]])
                found.append(_node(node, seen))
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"--ray-address: node {node['NodeManagerHostname']} cannot run SegMamba ({_first_line(error)}); it needs the same "
                    "Python packages as this machine"
                ) from error
    finally:
        token.unlink(missing_ok=True)
    _check(told, output, store_uri)
    return _together(found, sum(seen["memory_bytes"] for seen in told.values()))


def _node(node, seen):
    """The Node of Ray's entry and what `look_around` told there."""
    gpus = int(node["Resources"].get("GPU", 0))
    return Node(
        id=node["NodeID"],
        host=node["NodeManagerHostname"],
        cpu=seen["cpu"],
        gpu=seen["gpu"],
        gpus=gpus,
        gpu_bytes=seen["gpu_bytes"],
        cores=int(node["Resources"]["CPU"]),
    )


def _together(nodes, memory_bytes):
    """The Machine of Nodes: those with a GPU where there are any, since trials then run there alone."""
    nodes = sorted(
        [node for node in nodes if node.gpus] or nodes, key=lambda node: (node.host, node.id)
    )
    gpus, cores = sum(node.gpus for node in nodes), sum(node.cores for node in nodes)
    count, named = len(nodes), next((node.gpu for node in nodes if node.gpu), "GPU")
    return Machine(
        name=f"{count} node{'s' * (count > 1)} with {cores} core{'s' * (cores > 1)}"
        + (f" and {gpus} x {named}" if gpus else ""),
        gpus=gpus,
        gpu_bytes=min(node.gpu_bytes for node in nodes),
        cores=cores,
        memory_bytes=memory_bytes,
        nodes=tuple(nodes),
    )


def look_around(token):
    """What a node says of itself and of the shared folder; runs there."""
    import torch

    from segmamba.machine_state import free_memory
    from segmamba.environment import cpu_name

    path = Path(token)
    gpu = torch.cuda.is_available()
    return {
        "python": sys.version.split()[0],
        "sees_output": path.exists(),
        "can_write": os.access(path.parent, os.W_OK),
        "machine": BOOT_ID.read_text().strip() if BOOT_ID.exists() else socket.gethostname(),
        "memory_bytes": free_memory(),
        "cpu": cpu_name(),
        "gpu": torch.cuda.get_device_name(0) if gpu else "",
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory if gpu else 0,
    }


def _check(told, output, store_uri):
    here = BOOT_ID.read_text().strip() if BOOT_ID.exists() else socket.gethostname()
    for host, seen in told.items():
        if not seen["sees_output"]:
            raise UserError(
                f"--output {output}: node {host} does not see this folder; {SHARED_HINT}"
            )
        if not seen["can_write"]:
            raise UserError(f"--output {output}: node {host} may not write there; {SHARED_HINT}")
        if store_uri.startswith("sqlite:") and seen["machine"] != here:
            raise UserError(
                f"--ray-address: node {host} is another machine, and the MLflow store {store_uri} is a SQLite file, which one machine only can use; "
                "start `mlflow server` and set MLFLOW_TRACKING_URI to its address (docs/cluster.md)"
            )


def _without_noise(start):
    """Ray warns about its own defaults before its log level counts, and prints the traceback of a trial whose reason we print in a line."""
    logger = logging.getLogger("ray")
    logger.setLevel(logging.CRITICAL)
    start()
    logger.setLevel(logging.CRITICAL)  # ray.init has set its own


def _as_sigint(processes, number, frame):
    """A batch system's SIGTERM is Ctrl-C to a study: Tune stops the trials and returns. Where Ray's own processes got it too, they are gone and
    Tune, which would wait a minute for them before Ray ends this process, is left at once."""
    import psutil

    gone, _ = psutil.wait_procs(processes, timeout=SENT_TO_ALL_S)
    if gone:
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)


def _first_line(error):
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if "Error" in (lines or [""])[-1] else (lines or [type(error).__name__])[0])[
        :200
    ]
