"""Ray's own processes: a study does not wait for one that has died."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
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


class RayEnded(KeyboardInterrupt):
    """One of Ray's own processes has died while trials ran: the study ends as after Ctrl-C.

    Ray itself says so after 20 to 70 seconds, and ends this process before a run is closed.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Ray's process {name} has died, perhaps for want of memory; what was trained is kept, "
            "--resume goes on with it"
        )


class RayWatch:
    """Watches Ray's own processes in a thread, and sends SIGTERM to this one when one has died.

    Whoever handles that signal finds its name in `lost`.
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
    def watching(self, processes: Sequence[psutil.Process]) -> Iterator[None]:
        """Watch while the block runs.

        Args:
            processes: Children of this process, those of Ray among them.

        Raises:
            RayEnded: Ray is lost; what it has started is ended.
        """
        self._processes = list(processes)
        thread = threading.Thread(target=self._watch, name="ray watch", daemon=True)
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

    def _watch(self) -> None:
        import psutil

        watched = [process for process in self._processes if _name(process) in OWN]
        names = {process.pid: _name(process) for process in watched}
        turns = itertools.count()
        while watched and not self._over.wait(EVERY_S):
            if next(turns) % TURNS == 0:
                with suppress(psutil.Error, OSError):
                    self._workers = psutil.Process().children(recursive=True)
            dead = next((process for process in watched if _is_dead(process)), None)
            if dead is None:
                continue
            if not self._over.wait(GRACE_S) and not self.ending:
                self.lost = names[dead.pid]
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
    raylets = [process for process in processes if _name(process) == "raylet"]
    children = [child for raylet in raylets for child in raylet.children()]
    agents = [str(child.pid) for child in children if _name(child) in AGENTS]
    # It waits for the end of its input, which this process holds open as long as it lives.
    command = ["sh", "-c", 'read -r _; kill -9 "$@"', "sh", *agents]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _is_dead(process: psutil.Process) -> bool:
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
