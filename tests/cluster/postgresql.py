"""PostgreSQL, and an MLflow server with passwords in front of it, for tests.

Everything is in a folder that is given, on the loopback address and on ports of its own. The
processes run in a process namespace, which ends with this process, however that ends.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import requests

OWNER = "postgres"
"""Debian's user for PostgreSQL, which refuses to run as root."""


def programs():
    """The folder of the newest installed PostgreSQL's programs; None where there is none."""
    found = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in found), key=lambda at: int(at.parent.name), default=None)


def why_not():
    """Why there can be no server here; empty where there can."""
    if programs() is None:
        return "needs PostgreSQL (apt install postgresql)"
    try:
        pwd.getpwnam(OWNER)
        import flask_wtf  # noqa: F401  MLflow's basic authentication needs it
        import psycopg  # noqa: F401
    except (KeyError, ImportError) as error:
        return f"needs the user {OWNER} and the extra `server` ({error})"
    tried = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True)
    return "needs root, to run PostgreSQL as its own user" if tried.returncode else ""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Namespace:
    """Processes that see no others and end with this one."""

    def __init__(self):
        self._outside = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
            ]
            + ["sleep infinity & echo there; wait"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._outside.stdout.readline() == b"there\n"
        (inside,) = psutil.Process(self._outside.pid).children()
        self.enter = ["nsenter", "--all", "--target", str(inside.pid)]

    def end(self):
        self._outside.kill()
        self._outside.wait()
        self._outside.stdout.close()


class PostgreSQL:
    """A database server whose superuser has a password."""

    def __init__(self, folder, namespace):
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        self.password, self._namespace = secrets.token_hex(12), namespace
        owner = pwd.getpwnam(OWNER)
        folder.mkdir()
        (folder / "password").write_text(self.password)
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        secret = ["--auth=scram-sha-256", f"--pwfile={folder}/password"]
        self._run("initdb", "--no-sync", "--username=mlflow", *secret, f"--pgdata={self.data}")
        self.control("start")
        for name in ("mlflow", "users"):
            self._run("createdb", f"--host={folder}", f"--port={self.port}", "-U", "mlflow", name)

    def uri(self, database):
        """SQLAlchemy's address of a database."""
        return f"postgresql+psycopg://mlflow:{self.password}@127.0.0.1:{self.port}/{database}"

    def dump(self, name):
        """All that a database holds, as SQL."""
        file = self.folder / f"{name}.sql"
        self._run(
            "pg_dump",
            f"--host={self.folder}",
            f"--port={self.port}",
            "-U",
            "mlflow",
            f"--file={file}",
            name,
        )
        return file.read_text()

    def control(self, action, *options):
        """`pg_ctl ACTION`: start, stop, restart."""
        options = [*options] if action == "stop" else [*options, f"--options={self._options()}"]
        log = f"--log={self.folder}/log"
        self._run("pg_ctl", action, "--wait", f"--pgdata={self.data}", log, *options)

    def _options(self):
        return f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"

    def _run(self, program, *arguments):
        command = ["runuser", "-u", OWNER, "--", programs() / program, *arguments]
        # What it starts keeps the output, of which a pipe would never see the end.
        with (self.folder / "commands.log").open("ab") as log:
            done = subprocess.run(
                [*self._namespace.enter, *map(str, command)],
                cwd="/",
                env={**os.environ, "PGPASSWORD": self.password},
                stdout=log,
                stderr=log,
                timeout=120,
            )
        assert done.returncode == 0, (self.folder / "commands.log").read_text()[-3000:]


class Server:
    """An MLflow server in front of a database: artifacts through it, everybody has a password."""

    def __init__(self, folder, database, namespace):
        self.folder, self.port, self.process = folder, free_port(), None
        self.uri, self.admin_password = f"http://127.0.0.1:{self.port}", secrets.token_hex(12)
        self._namespace = namespace
        folder.mkdir()
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database.uri('users')}\n"
            "admin_username = admin\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        self._env = {
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": f"{folder}/auth.ini",
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.admin_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_BACKEND_STORE_URI": database.uri("mlflow"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a dozen idle processes
        }
        self._env.pop("MLFLOW_TRACKING_URI", None)

    def start(self):
        options = ["--host=127.0.0.1", f"--port={self.port}", "--workers=2", "--serve-artifacts"]
        # Otherwise a worker that a busy machine starts slowly is killed after 5 s, again and again.
        options.append("--uvicorn-opts=--timeout-worker-healthcheck 300")
        kept = f"--artifacts-destination={self.folder}/artifacts"
        command = [sys.executable, "-m", "mlflow", "server", "--app-name=basic-auth", *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._namespace.enter, *command, kept],
                env=self._env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).read()
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def kill(self):
        """Kill it and its workers at once."""
        for process in [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    def add_user(self, name, password):
        answer = requests.post(
            f"{self.uri}/api/2.0/mlflow/users/create",
            json={"username": name, "password": password},
            auth=("admin", self.admin_password),
            timeout=60,
        )
        answer.raise_for_status()


@contextlib.contextmanager
def database_and_server(folder):
    """A PostgreSQL and an MLflow server in `folder`, which PostgreSQL's user can reach."""
    with contextlib.ExitStack() as stack:
        namespace = Namespace()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(namespace.end)
        folder.chmod(0o755)
        database = PostgreSQL(folder / "database", namespace)
        server = Server(folder / "server", database, namespace)
        server.start()
        yield database, server
