"""Ray's start on this machine, and joining a cluster: tried again for a while, then one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from segmamba.errors import UserError
from segmamba.orchestration.engine.cluster_nodes import first_line

STARTS, PAUSE_S = 3, 2.0
"""How often Ray's start is tried on a machine that is too busy for it, and seconds in between."""
PORTS, PORTS_PER_CORE, MOST_PORTS = 16, 4, 200
"""TCP ports that Ray's own processes take, that the worker of a core takes, and that are looked for
at most. Ray 2.60 has 14 listeners and 34 connections on 8 cores."""
JOIN_PATIENCE_S, JOIN_PAUSE_S = 120.0, 2.0
"""How long a cluster that is not yet up is waited for, and seconds between two attempts."""
ANSWER_S = 5.0
"""Seconds for a connection to a cluster's address."""
WRONG_TOKEN = b"InvalidAuthToken"
HOST_AND_PORT = re.compile(r"\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)")


def start_here(start: Callable[[], object], cores: int) -> None:
    """Start Ray on this machine, again where a busy machine was too slow for it.

    Args:
        start: Calls `ray.init`.
        cores: The cores that Ray may use.

    Raises:
        UserError: It does not start.
    """
    import ray

    for left in reversed(range(STARTS)):
        try:
            check_ports(cores)
            _quietly(start)
        except Exception as error:  # Ray raises some of its faults as plain exceptions
            ray.shutdown()
            _end_half_started()
            if left:
                time.sleep(PAUSE_S)
            elif isinstance(error, UserError):
                raise
            else:
                raise UserError(
                    f"Ray does not start on this machine ({first_line(error)}); free memory and "
                    "processes, or try again when the machine is less busy"
                ) from error
        else:
            return


def check_ports(cores: int) -> None:
    """Check that this machine has as many free TCP ports as Ray takes.

    Ray itself would wait for minutes for a process that has none.

    Args:
        cores: The cores that Ray may use.

    Raises:
        UserError: There are fewer.
    """
    needed = min(PORTS + PORTS_PER_CORE * cores, MOST_PORTS)
    with ExitStack() as held:
        for free in range(needed):
            try:
                held.enter_context(socket.create_server(("127.0.0.1", 0)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise UserError(
                    f"Ray does not start on this machine: of the {needed} TCP ports that it takes "
                    f"{free} are free; end what holds them, or widen the range that `sysctl "
                    "net.ipv4.ip_local_port_range` shows"
                ) from error


def join(address: str, connect: Callable[[], object]) -> None:
    """Join a cluster, tried again for JOIN_PATIENCE_S where it is not yet up.

    Args:
        address: Of the cluster; "auto" is one on this machine.
        connect: Calls `ray.init` with it.

    Raises:
        UserError: It cannot be joined.
    """
    import ray

    deadline, said = time.monotonic() + JOIN_PATIENCE_S, False
    while True:
        try:
            _check_listens(address)
            return _quietly(connect)
        except OSError as error:  # a ConnectionError is one
            reason = error
        except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise _cannot_join(address, error) from error
        if time.monotonic() >= deadline:
            raise _cannot_join(address, reason) from reason
        if not said:
            print(
                f"cluster  {address} is not there yet ({first_line(reason)}); trying for up to "
                f"{JOIN_PATIENCE_S / 60:.0f} min",
                file=sys.stderr,
            )
            said = True
        time.sleep(JOIN_PAUSE_S)


def _check_listens(address: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        OSError: Nothing does.
    """
    named = HOST_AND_PORT.fullmatch(address)
    if named:
        socket.create_connection((named["host"], int(named["port"])), ANSWER_S).close()


def _cannot_join(address: str, error: BaseException) -> UserError:
    return UserError(
        f"--ray-address {address}: no cluster can be joined there ({first_line(error)}); "
        "see `ray status`, and ~/.ray/auth_token must be the cluster's (docs/how-to/cluster.md)"
    )


def _end_half_started() -> None:
    """End the processes of a Ray that has not come up; their own ones end with them."""
    import psutil

    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if process.name() in ("gcs_server", "raylet"):
                process.kill()


def _quietly(start: Callable[[], object]) -> None:
    """Call a function that starts Ray, without Ray's log lines.

    Ray warns about its own defaults before its log level counts, and prints the traceback of a
    trial whose reason is shown in a line anyway.

    Raises:
        RuntimeError: A cluster takes another token, which Ray's own exception does not say.
        Exception: Any other of Ray's.
    """
    logger = logging.getLogger("ray")
    logger.setLevel(logging.CRITICAL)
    with tempfile.TemporaryFile() as native:
        try:
            with _native_lines_to(native.fileno()):
                start()
        except Exception as error:
            native.seek(0)
            if WRONG_TOKEN in native.read():
                raise RuntimeError("the cluster takes another token") from error
            raise
    logger.setLevel(logging.CRITICAL)  # ray.init has set its own


@contextmanager
def _native_lines_to(file: int) -> Iterator[None]:
    """Keep off the terminal what Ray's C++ writes to standard error, a line a second for one.

    What Python writes there still appears, that of other threads too.

    Args:
        file: The descriptor of the file that gets it.
    """
    kept, python = os.dup(2), sys.stderr
    with open(kept, "w", buffering=1, errors="backslashreplace") as terminal:
        # A test's or a notebook's standard error is no descriptor.
        if python is sys.__stderr__:
            sys.stderr = terminal
        os.dup2(file, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            sys.stderr = python
