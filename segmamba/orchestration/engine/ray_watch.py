"""Ray's own processes and a cluster's head: a study does not wait for one that has died."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

OWN = ("gcs_server", "raylet")
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes of the raylet that wait a minute for Ray where it was killed, to tell it so."""
EVERY_S, TURNS = 0.5, 20
"""How often Ray's processes are looked at, and how many looks go by between two at their children,
which takes reading the whole machine's processes."""
GRACE_S = 3.0
"""Seconds in which a study that is ending anyway, as when SIGTERM was sent to all, leaves Ray."""
LEAVE_S = 8.0
"""Seconds after which a study that does not come back from Ray is ended from outside."""
ASK_S, ANSWER_S, AWAY_S = 3.0, 5.0, 20.0
"""Seconds between two connections to a cluster's head, those that one may take, and those after
which a head that nothing connects to has died: one that is started again is there by then."""


class RayEnded(KeyboardInterrupt):
    """One of Ray's own processes has died while trials ran: the study ends as after Ctrl-C.

    Ray itself says so after 20 to 70 seconds, and ends this process before a run is closed.
    """

    def __init__(self, death: str) -> None:
        super().__init__(f"{death}; what was trained is kept, --resume goes on with it")


class RayWatch:
    """Watches Ray in a thread, and sends SIGTERM to this process when what it needs has died.

    Whoever handles that signal finds what died in `lost`.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.lost = ""
        self.ending = False
        """Whether the main thread leaves Ray for another reason, however long that takes."""
        self.closing: Callable[[], object] = lambda: None
        """What is left to do where the main thread never comes back from Ray."""
        self._processes: list[psutil.Process] = []
        self._workers: list[psutil.Process] = []
        self._over = threading.Event()

    @contextmanager
    def watching(self, processes: Sequence[psutil.Process], head: str = "") -> Iterator[None]:
        """Watch while the block runs.

        Args:
            processes: Children of this process, those of Ray among them.
            head: HOST:PORT of the head of a cluster that was joined.

        Raises:
            RayEnded: Ray is lost; what it has started is ended.
        """
        self._processes = list(processes)
        needed: list[_Process | _Head] = [
            _Process(process) for process in processes if _name(process) in OWN
        ]
        if head:
            needed.append(_Head(head))
        thread = threading.Thread(target=self._watch, args=(needed,), name="ray watch", daemon=True)
        thread.start()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
        self._over.set()
        thread.join()
        if self.lost:
            self._end_workers()
            # Whatever else came of it: Tune takes an interrupt for the end of its trials.
            raise RayEnded(self.lost) from error
        if error is not None:
            raise error

    def _watch(self, needed: Sequence[_Process | _Head]) -> None:
        import psutil

        turns = itertools.count()
        while needed and not self._over.wait(EVERY_S):
            if self._processes and next(turns) % TURNS == 0:
                with suppress(psutil.Error, OSError):
                    self._workers = psutil.Process().children(recursive=True)
            dead = next((one for one in needed if one.is_dead()), None)
            if dead is None:
                continue
            if not self._over.wait(GRACE_S) and not self.ending:
                self.lost = dead.death
                os.kill(os.getpid(), signal.SIGTERM)
                if not self._over.wait(LEAVE_S):
                    self._leave()
            return

    def _leave(self) -> None:
        """End this process, whose main thread waits within Ray for what has died."""
        self._end_workers()
        try:
            self.closing()
        finally:
            print(f"error: {RayEnded(self.lost)}", file=sys.stderr, flush=True)
            os._exit(1)

    def _end_workers(self) -> None:
        """End Ray's processes: a trial would go on until it misses its raylet or Ray's store."""
        import psutil

        for process in (*self._workers, *self._processes):
            with suppress(psutil.Error):
                process.kill()


@contextmanager
def agents_end_too(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """While the block runs, have Ray's agents end at once where this process is killed.

    The kernel ends Ray's other processes with it.

    Args:
        processes: Children of this process, the raylet among them.
    """
    import psutil

    agents: list[str] = []
    with suppress(psutil.Error):  # a raylet that has just died: the watch sees it
        for raylet in (process for process in processes if _name(process) == "raylet"):
            agents += [str(child.pid) for child in raylet.children() if _name(child) in AGENTS]
    # It waits for the end of its input, which this process holds open as long as it lives.
    command = ["sh", "-c", 'read -r _; kill -9 "$@"', "sh", *agents]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


class _Process:
    """One of Ray's processes, a child of this one."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.death = f"Ray's process {_name(process)} has died, perhaps for want of memory"

    def is_dead(self) -> bool:
        import psutil

        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True


class _Head:
    """The head of a cluster, asked now and then whether anything listens there."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._asked_s = self._answered_s = time.monotonic()
        self.death = f"the head of the cluster at {address} has not answered for {AWAY_S:.0f} s"

    def is_dead(self) -> bool:
        if time.monotonic() - self._asked_s < ASK_S:
            return False
        self._asked_s = time.monotonic()
        try:
            socket.create_connection(self._address, ANSWER_S).close()
        except OSError:
            return time.monotonic() - self._answered_s > AWAY_S
        self._answered_s = time.monotonic()
        return False


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return ""
