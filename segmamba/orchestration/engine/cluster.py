"""Where Ray runs: on this machine alone, out of reach of others, or on a cluster that exists."""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import segmamba
from segmamba.orchestration.engine.cluster_nodes import inspect_nodes
from segmamba.orchestration.engine.machine import Machine, this_machine
from segmamba.orchestration.engine.ray_start import join, start_here
from segmamba.orchestration.engine.ray_watch import RayEnded, RayWatch, agents_end_too
from segmamba.orchestration.engine.scratch import (
    RAY,
    scratch,
    temporaries_in,
    token_where_none_can_be_kept,
)

if TYPE_CHECKING:
    import psutil

OBJECT_STORE_BYTES = 256 * 2**20
"""Trials exchange paths and numbers only; Ray's default would take 30 % of the memory."""
FOR_RAY = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # ASHA waits for a metric, as it should: not every epoch evaluates the validation set.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
SENT_TO_ALL_S = 1.0
"""Seconds within which Ray's processes end on a SIGTERM that was sent to them as well."""
NODE_GONE = re.compile(r"node with node id: \w+ and address: (\S+) .*has been marked dead")
RAYLET_GONE = "Raylet is terminated"

Prepared = TypeVar("Prepared")


@contextmanager
def machine_for(
    address: str | None,
    cores: int,
    output: str | Path,
    store_uri: str,
    watch: RayWatch | None = None,
) -> Iterator[Machine]:
    """The machine that a study will run on.

    Enter this block before Ray is imported: an import decides which address Ray binds to.

    Args:
        address: Of a cluster, to which the block is connected; None is this machine, on which
            `ray_here` then starts Ray.
        cores: Cores for the whole study; 0 is all of them.
        output: The folder of results.
        store_uri: The MLflow store.
        watch: Notes the death of the cluster's head, which ends the block as RayEnded.

    Yields:
        The machine, with at most so many cores.

    Raises:
        UserError: The cluster cannot be joined, or a node cannot take part.
    """
    os.environ |= FOR_RAY
    if address is None:
        # On any system: Ray names this node, and binds to, the loopback address.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        yield this_machine(cores)
        return
    # Ray tries for minutes, a wrong token too; `join` knows what is worth another attempt.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    with ray_cluster(address, output, store_uri, watch) as machine:
        yield dataclasses.replace(machine, cores=min(machine.cores, cores or machine.cores))


@contextmanager
def ray_here(
    machine: Machine,
    meanwhile: Callable[[], Prepared],
    waiting: ExitStack | None = None,
    watch: RayWatch | None = None,
) -> Iterator[Prepared]:
    """Run Ray on this machine until the block ends.

    Args:
        machine: This machine, with the cores that Ray may use.
        meanwhile: Called in a thread while Ray starts.
        waiting: The end of this stack waits for the end of Ray's processes, which takes a second.
            Without one the end of the block waits.
        watch: Notes the death of one of Ray's own processes, which ends the block as RayEnded.

    Yields:
        What `meanwhile` returned.

    Raises:
        UserError: Ray does not start here, or there is no folder for its sockets.
    """
    import psutil
    import ray

    with ExitStack() as here, ThreadPoolExecutor(1) as executor:
        prepared = executor.submit(meanwhile)
        # Left after Ray's processes have ended, since it is entered before they are waited for.
        folder = (waiting or here).enter_context(scratch())
        (waiting or here).enter_context(token_where_none_can_be_kept(folder))
        (waiting or here).enter_context(temporaries_in(folder))
        start_here(
            lambda: ray.init(
                address="local",
                num_cpus=machine.cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder / RAY),
            ),
            machine.cores,
        )
        own = psutil.Process().children()
        with (
            _until_done(own, waiting, watch),
            agents_end_too(own),
            node_deaths_in_a_line(watched=True),
        ):
            yield prepared.result()


@contextmanager
def ray_cluster(
    address: str, output: str | Path, store_uri: str, watch: RayWatch | None = None
) -> Iterator[Machine]:
    """Join a cluster until the block ends.

    Args:
        address: Of the cluster.
        output: The folder of results.
        store_uri: The MLflow store.
        watch: See `machine_for`.

    Yields:
        The machine that the nodes of the cluster form.

    Raises:
        UserError: The cluster cannot be reached, or a node cannot run the code, see `output`, or
            use the store.
    """
    import ray

    join(
        address,
        lambda: ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env=shipped(),
        ),
    )
    # Through a client's port, the head's own address need not be reached from here.
    head = "" if address.startswith("ray://") else ray.get_runtime_context().gcs_address
    with _until_done([], watch=watch, head=head), node_deaths_in_a_line():
        yield inspect_nodes(Path(output).resolve(), store_uri)


@contextmanager
def node_deaths_in_a_line(*, watched: bool = False) -> Iterator[None]:
    """Print the death of a node as one line on stderr.

    Ray prints what its head reports to stdout, whatever its log level. Everything else is still
    printed there.

    Args:
        watched: Whether a `RayWatch` says that the raylet of this machine has died; Ray then does
            not.
    """
    from ray._private import worker

    # Private: where a version of Ray no longer has it, Ray's own lines appear.
    printed = getattr(worker, "print_to_stdstream", None)
    if printed is None:
        yield
        return

    def show(data: dict[str, Any], *args: Any, **options: Any) -> None:
        lines = " ".join(data["lines"])
        gone = NODE_GONE.search(lines)
        if watched and RAYLET_GONE in lines:
            return
        if gone:
            print(
                f"node     {gone[1]} is gone; what ran there goes on from its last checkpoint "
                "on another node",
                file=sys.stderr,
            )
        else:
            printed(data, *args, **options)

    worker.print_to_stdstream = show
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def shipped() -> dict[str, list[str]]:
    """Ray's runtime environment, which brings this package's source to every node.

    The source is a megabyte, and takes precedence over a package that a node has installed.
    """
    return {
        "py_modules": [str(Path(segmamba.__file__).parent)],
        "excludes": ["**/__pycache__/**", "*.pyc"],
    }


@contextmanager
def _until_done(
    processes: Sequence[psutil.Process],
    waiting: ExitStack | None = None,
    watch: RayWatch | None = None,
    head: str = "",
) -> Iterator[None]:
    """Shut Ray down when the block ends, and handle SIGTERM until then.

    processes: Ray's own, started by this process. waiting, watch: see `ray_here`. head: HOST:PORT
    of that of a cluster that was joined.
    """
    import ray

    ending, watch = threading.Thread(target=ray.shutdown), watch or RayWatch()
    with ExitStack() as here:
        waiting = waiting or here
        # Registered now, and not when the thread starts: what `waiting` is given meanwhile ends
        # first.
        waiting.callback(lambda: ending.join() if ending.ident else None)
        waiting.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        # After ray.init, which installs a handler that aborts.
        signal.signal(signal.SIGTERM, functools.partial(_as_sigint, processes, watch))
        try:
            with watch.watching(processes, head):
                yield
        finally:
            if not watch.lost:  # Ray would wait for what has died
                # Tune leaves circles that hold object references. Ray exits the process where one
                # is freed while the thread shuts it down.
                gc.collect()
                ending.start()


def _as_sigint(
    processes: Sequence[psutil.Process], watch: RayWatch, number: int, frame: FrameType | None
) -> None:
    """Handle the SIGTERM of a batch system as Ctrl-C: Tune stops the trials and returns.

    Where Ray's own processes got the signal too, they are gone. Tune would wait a minute for them
    before Ray ends this process; it is left at once, as where the signal comes from the watch.
    """
    import psutil

    if watch.lost:
        raise RayEnded(watch.lost)
    gone, _ = psutil.wait_procs(processes, timeout=SENT_TO_ALL_S)
    if gone:
        watch.ending = True
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)
