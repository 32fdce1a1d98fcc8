"""Real processes that start at once: forked from one that has imported torch, Ray and MLflow.

A fresh Python process spends 3 to 6 s of CPU on these imports, more than most tests spend on what
they test. `run` and `Process` take the command of a fresh process, `[sys.executable, "-c" | "-m" |
script, …]`, and run it in a fork of a server that has the imports behind it and has done nothing
else. Such a process has its own working directory, environment, signals and exit code, and can be
killed, as a fresh one. Tests of what is imported, and a cold start of each command, still use
`subprocess`.
"""

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from pathlib import Path

from segmamba.orchestration.tracking import database
from segmamba.training import compiler_cache

ROOT = Path(__file__).parents[1]
MAKE_DATABASE = database._create
DATABASES = "SEGMAMBA_TESTS_DATABASES"
"""The environment variable that tells the server where the new database is kept."""
FILES = 200
"""The largest number of file descriptors that a process is given."""
HIGH = 500
"""File descriptors from here on are free in a process that is about to begin."""
IMPORTED = (
    "torch",
    "torch._inductor",
    "mlflow",
    "mlflow.system_metrics.system_metrics_monitor",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.pyfunc",
    "ray.tune",
    "optuna",
    "scipy.ndimage",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
    "nibabel",
    "torch.utils.tensorboard",
    "rich.progress",
    "segmamba.cli",
    "segmamba.commands.run_progress",
    "segmamba.orchestration.study",
    "segmamba.orchestration.single",
    "segmamba.orchestration.reproduce",
    "segmamba.orchestration.listing",
    "segmamba.orchestration.ensemble_study",
    "segmamba.orchestration.engine.trainable",
    "segmamba.orchestration.tracking.registry",
    "segmamba.inference.folder",
    "segmamba.data.check",
    "segmamba.data.summary",
    "segmamba.evaluation.evaluate",
    "segmamba.evaluation.compare",
    "segmamba.reports.report",
)


# --- MLflow databases ---------------------------------------------------------------------------


def copied_database(folder):
    """Return what stands in for `database._create`: it copies a new database to its place.

    The dozens of migrations that make one take more than a second. Whoever comes first makes it
    in `folder`, as a user's is made; it differs from another one only in where the default
    experiment has its artifacts.
    """

    def create(path):
        new = _new_database(folder)
        with database._beside(path) as copy:
            shutil.copyfile(new, copy)
            with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
                connection.execute(
                    "UPDATE experiments SET artifact_location = ?",
                    (str(path.parent / "mlartifacts" / "0"),),
                )
            database._rename(copy, path)

    return create


def _new_database(folder):
    path = Path(folder) / "new.db"
    with (Path(folder) / "new.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # against another process of the same tests
        if not path.exists():
            MAKE_DATABASE(path)
    return path


# --- what tests call ----------------------------------------------------------------------------


class Process:
    """A process forked from the warm one, with the part of subprocess.Popen that tests use."""

    def __init__(self, command, *, cwd=None, env=None, stderr=subprocess.PIPE, session=False):
        """Start a command.

        Args:
            command: `[sys.executable, "-c", code, …]`, or with "-m" and a module, or a script.
            cwd: The working directory.
            env: The environment.
            stderr: subprocess.STDOUT puts it into stdout.
            session: Whether it leads a session of its own, out of reach of signals to the tests.
        """
        self.args = [str(word) for word in command]
        assert self.args[0] == sys.executable
        out, out_end = os.pipe()
        err, err_end = (None, out_end) if stderr == subprocess.STDOUT else os.pipe()
        self._fork = _Fork(
            self.args[1:], {1: out_end, 2: err_end}, cwd=cwd, env=env, session=session
        )
        for pipe in {out_end, err_end}:
            os.close(pipe)
        self.stdout = os.fdopen(out)
        self.stderr = None if err is None else os.fdopen(err)
        self.pid = self._fork.pid

    @property
    def returncode(self):
        return self._fork.returncode

    def wait(self, timeout=None):
        if not self._fork.has_ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def poll(self):
        self._fork.has_ended(0)
        return self.returncode

    def communicate(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        content = {}

        def read(name, file):
            content[name] = file.read()

        files = {"stdout": self.stdout, "stderr": self.stderr}
        readers = [
            threading.Thread(target=read, args=item, daemon=True)
            for item in files.items()
            if item[1] is not None
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        for file in files.values():
            if file is not None:
                file.close()
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return content["stdout"], content.get("stderr")

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(command, *, cwd=None, env=None, timeout=300):
    """Run a command to its end, as subprocess.run does that captures text."""
    process = Process(command, cwd=cwd, env=env)
    try:
        output, errors = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def warm_spawn(patch):
    """Let multiprocessing's spawned processes be forked from the warm one, too.

    Args:
        patch: `setattr`, or that of a MonkeyPatch.
    """
    from multiprocessing import popen_spawn_posix, util

    fresh, forks = util.spawnv_passfds, {}

    def spawn(path, command, files):
        command = [os.fsdecode(word) for word in command]
        if "--multiprocessing-fork" not in command:  # multiprocessing's own helpers
            return fresh(path, command, files)
        fork = _Fork(command[command.index("-c") :], {file: file for file in (1, 2, *files)})
        forks[fork.pid] = fork
        return fork.pid

    def poll(process, flag=os.WNOHANG):
        if forks[process.pid].has_ended(0 if flag == os.WNOHANG else None):
            process.returncode = forks[process.pid].returncode
        return process.returncode

    patch(util, "spawnv_passfds", spawn)
    patch(popen_spawn_posix.Popen, "poll", poll)


def end():
    """End the warm process, where one was started, and what it has started."""
    if _server.cache_info().currsize:
        _server().end()
        _server.cache_clear()


class _Fork:
    """A process that the warm one was asked for."""

    def __init__(self, arguments, files, *, cwd=None, env=None, session=False):
        """Ask for it.

        Args:
            arguments: What stands behind the interpreter on its command line.
            files: The file descriptors that it has besides stdin, as {number there: number here}.
            cwd: As for Process.
            env: As for Process.
            session: As for Process.
        """
        request = {
            "arguments": arguments,
            "files": list(files),
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
            "session": session,
        }
        content = json.dumps(request).encode()
        self._keeper = socket.socket(socket.AF_UNIX)
        self._keeper.connect(_path or _server().path)
        socket.send_fds(self._keeper, [len(content).to_bytes(8, "big")], list(files.values()))
        self._keeper.sendall(content)
        self.pid = self._answer()
        self.returncode = None

    def has_ended(self, timeout):
        """Return whether it has ended within so many seconds; None waits for its end."""
        if self.returncode is None and select.select([self._keeper], [], [], timeout)[0]:
            self.returncode = self._answer()
            self._keeper.close()
        return self.returncode is not None

    def _answer(self):
        answer = self._keeper.recv(8, socket.MSG_WAITALL)
        assert answer, "the warm process has ended"
        return int.from_bytes(answer, "big", signed=True)


# --- the warm process ---------------------------------------------------------------------------


class _Server:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(dir=PLACE)
        self.path = f"{self.folder.name}/socket"
        code = "import sys; from tests.warm import serve; serve(sys.argv[1])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, self.path],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout.readline() == b"ready\n"

    def end(self):
        self.process.communicate()  # it ends with its stdin, also where these tests are killed
        self.folder.cleanup()


PLACE = tempfile.gettempdir()
"""Where temporary files lie, before a test or a study in this process has them lie elsewhere."""
_path = None
"""The socket of the warm process, in its forks."""


@functools.cache
def _server():
    return _Server()


def serve(path):
    """Import, then fork a process for each request until stdin ends."""
    global _path
    _path = path
    for name in IMPORTED:
        importlib.import_module(name)
    if DATABASES in os.environ:
        database._create = copied_database(os.environ[DATABASES])
    warm_spawn(setattr)
    # A lock that another thread holds would stay locked in every fork.
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], 1)
        _reap()
        if sys.stdin in ready:
            os.killpg(0, signal.SIGKILL)
        if listener in ready:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                _keep(connection)
            connection.close()


def _reap():
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(connection):
    """Fork the process that is asked for, and tell its id and how it ended."""
    length, pipes, _, _ = socket.recv_fds(connection, 8, FILES)
    content = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    process = os.fork()
    if not process:
        connection.close()
        _become(json.loads(content), pipes)
    for pipe in pipes:
        os.close(pipe)
    connection.sendall(process.to_bytes(8, "big"))
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(OSError):  # nobody may wait for it any more
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
    os._exit(0)


def _become(request, pipes):
    """Do what a fresh interpreter would do with these arguments."""
    if request["session"]:
        os.setsid()
    away = [fcntl.fcntl(pipe, fcntl.F_DUPFD, HIGH) for pipe in pipes]
    for pipe in pipes:
        os.close(pipe)
    for number, pipe in zip(request["files"], away, strict=True):
        os.dup2(pipe, number)
        os.close(pipe)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # found anew, by that environment
    # torch's compiler, which the warm process has imported, has set variables of its own
    compiler_cache.USERS = {n: os.environ[n] for n in compiler_cache.VARIABLES if n in os.environ}
    try:
        _interpret(*request["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    # Without the interpreter's own end, which would copy all that is imported to let go of it.
    os._exit(code)


def _interpret(first, *rest):
    """Run what the interpreter's arguments name."""
    if first == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    elif first == "-m":
        module, *rest = rest
        sys.modules.pop(module, None)
        sys.argv = [module, *rest]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")
