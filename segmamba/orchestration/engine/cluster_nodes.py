"""The nodes of a Ray cluster: whether each can take part in a study, and the machine they form."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmamba.errors import UserError
from segmamba.orchestration.engine.machine import Machine, Node

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PROBE_S = 120
"""Seconds for a node to answer: its first worker process must start and unpack the code."""
FIRST_NODE_S = 120.0
"""Seconds for a cluster that has just come up to get its first node with a core."""
SHARED_HINT = "--output must be a folder that all nodes share, at the same path"


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node says of itself and of the shared folder."""

    python: str
    """Version."""
    sees_output: bool
    can_write: bool
    machine: str
    """The same for all nodes on one machine."""
    memory_bytes: int
    """Free main memory."""
    cpu: str
    gpu: str
    """Name of its GPUs; empty without one."""
    gpu_bytes: int
    """Memory of one GPU."""


def inspect_nodes(output: Path, store_uri: str) -> Machine:
    """Ask each node of the connected cluster whether it can take part in a study.

    Args:
        output: The folder of results, which all nodes must share.
        store_uri: The MLflow store, which all nodes must reach.

    Returns:
        The machine that the nodes form.

    Raises:
        UserError: There is no node with a core within FIRST_NODE_S, or one does not answer, cannot
            run the code, see the folder or use the store.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    entries = _nodes_with_cores()
    token = output / f".seen_by_all_nodes_{uuid.uuid4().hex}"
    token.write_text("may be deleted\n", encoding="utf-8")
    try:
        probe = ray.remote(num_cpus=1, max_retries=0)(report_node)
        tasks = {
            entry["NodeID"]: probe.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            ).remote(str(token), entry["Resources"].get("GPU", 0) > 0)
            for entry in entries
        }
        _, missing = ray.wait(list(tasks.values()), num_returns=len(tasks), timeout=PROBE_S)
        if missing:
            raise UserError(
                f"--ray-address: {len(missing)} of {len(entries)} nodes did not answer "
                f"within {PROBE_S} s; see ray status"
            )
        reports = [_report(entry, tasks[entry["NodeID"]]) for entry in entries]
    finally:
        token.unlink(missing_ok=True)
    by_host = {
        entry["NodeManagerHostname"]: report for entry, report in zip(entries, reports, strict=True)
    }
    check_reports(by_host, output, store_uri)
    nodes = [_node(entry, report) for entry, report in zip(entries, reports, strict=True)]
    return machine_of(nodes, sum(report.memory_bytes for report in by_host.values()))


def _nodes_with_cores() -> list[dict[str, Any]]:
    """Ray's entries of the nodes that can run something; the first one is waited for."""
    import ray

    deadline = time.monotonic() + FIRST_NODE_S
    while True:
        entries = [
            node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]
        if entries:
            return entries
        if time.monotonic() >= deadline:
            raise UserError(
                "--ray-address: no node of the cluster offers a CPU core; "
                "start one with ray start --address=..."
            )
        time.sleep(1.0)


def _report(entry: Mapping[str, Any], task: Any) -> NodeReport:
    """The answer of a node; `task` is Ray's reference of it."""
    import ray

    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"--ray-address: node {entry['NodeManagerHostname']} cannot run SegMamba "
            f"({first_line(error)}); it needs the same Python packages as this machine"
        ) from error


def _node(entry: Mapping[str, Any], report: NodeReport) -> Node:
    """The Node of Ray's entry and its report."""
    return Node(
        id=entry["NodeID"],
        host=entry["NodeManagerHostname"],
        cpu=report.cpu,
        gpu=report.gpu,
        gpus=int(entry["Resources"].get("GPU", 0)),
        gpu_bytes=report.gpu_bytes,
        cores=int(entry["Resources"]["CPU"]),
    )


def machine_of(nodes: Sequence[Node], memory_bytes: int) -> Machine:
    """The machine that some nodes form.

    Where there are nodes with a GPU, only these count, since trials then run on them alone.

    Args:
        nodes: The nodes of the cluster.
        memory_bytes: Their free main memory.
    """
    nodes = sorted(
        [node for node in nodes if node.gpus] or nodes, key=lambda node: (node.host, node.id)
    )
    gpus, cores = sum(node.gpus for node in nodes), sum(node.cores for node in nodes)
    count, gpu_name = len(nodes), next((node.gpu for node in nodes if node.gpu), "GPU")
    return Machine(
        name=f"{count} node{'s' * (count > 1)} with {cores} core{'s' * (cores > 1)}"
        + (f" and {gpus} x {gpu_name}" if gpus else ""),
        gpu=gpu_name if gpus else "",
        gpus=gpus,
        gpu_bytes=min(node.gpu_bytes for node in nodes),
        cores=cores,
        memory_bytes=memory_bytes,
        nodes=tuple(nodes),
    )


def report_node(token: str, has_gpus: bool) -> NodeReport:
    """The report of the node on which this function runs.

    Args:
        token: A file in the folder that all nodes share.
        has_gpus: Whether Ray says that the node has GPUs; torch, whose import takes seconds, is
            asked only then.

    Raises:
        ModuleNotFoundError: The node has no torch.
    """
    from segmamba.environment import cpu_name
    from segmamba.machine_state import free_memory

    path, gpu, gpu_bytes = Path(token), "", 0
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'")
    if has_gpus:
        import torch

        if torch.cuda.is_available():
            gpu = torch.cuda.get_device_name(0)
            gpu_bytes = torch.cuda.get_device_properties(0).total_memory
    return NodeReport(
        python=sys.version.split()[0],
        sees_output=path.exists(),
        can_write=os.access(path.parent, os.W_OK),
        machine=_machine_id(),
        memory_bytes=free_memory(),
        cpu=cpu_name(),
        gpu=gpu,
        gpu_bytes=gpu_bytes,
    )


def _machine_id() -> str:
    return BOOT_ID.read_text(encoding="utf-8").strip() if BOOT_ID.exists() else socket.gethostname()


def check_reports(reports: Mapping[str, NodeReport], output: Path, store_uri: str) -> None:
    """Check that every node can take part in a study.

    Args:
        reports: Host name to the report of its node.
        output: The folder of results.
        store_uri: The MLflow store.

    Raises:
        UserError: A node does not see the folder, may not write there, or is another machine than
            this one while the store is a SQLite file.
    """
    here = _machine_id()
    for host, report in reports.items():
        if not report.sees_output:
            raise UserError(
                f"--output {output}: node {host} does not see this folder; {SHARED_HINT}"
            )
        if not report.can_write:
            raise UserError(f"--output {output}: node {host} may not write there; {SHARED_HINT}")
        if store_uri.startswith("sqlite:") and report.machine != here:
            raise UserError(
                f"--ray-address: node {host} is another machine, and the MLflow store {store_uri} "
                "is a SQLite file, which one machine only can use; "
                "start `mlflow server` and set MLFLOW_TRACKING_URI to its address "
                "(docs/how-to/cluster.md)"
            )


def first_line(error: BaseException) -> str:
    """The line of an exception's message that says most: the last where it names an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return (lines[-1] if "Error" in lines[-1] else lines[0])[:200]
