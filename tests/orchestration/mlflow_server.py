"""A real MLflow server, for tests that take it away and bring it back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request


class Server:
    """An MLflow server on loopback whose store is a SQLite file in `folder`."""

    def __init__(self, folder):
        self.folder, self.process = folder, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.env = {**os.environ, "MLFLOW_TRACKING_URI": self.uri}

    def start(self):
        self.launch()
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text()[-3000:])

    def launch(self):
        """Start it without waiting; what it leaves where it is killed stays in its folder."""
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            self.port,
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            self.folder / "artifacts",
        ]
        environment = os.environ | {
            "TMPDIR": str(self.folder),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its queues would lie in /dev/shm
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*map(str, command)],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def answers(self):
        try:
            return bool(urllib.request.urlopen(f"{self.uri}/health", timeout=5).read())
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
