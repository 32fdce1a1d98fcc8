"""The Slurm cluster of slurm.sh as tests use it, and the script of the documentation on it."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "cluster.md"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "nsenter", "setpriv")
SHARED = "/mnt"
"""Where every node has the shared folder."""


def why_not():
    """Why there can be no Slurm cluster here; empty where there can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"needs {', '.join(missing)} (apt install slurm-wlm munge iproute2)"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True
    )
    return "needs root, for namespaces" if tried.returncode else ""


def script_of_the_page():
    """The batch script that docs/how-to/cluster.md shows."""
    _, _, after = PAGE.read_text().partition("```bash\n#!/bin/bash\n#SBATCH")
    return "#!/bin/bash\n#SBATCH" + after.partition("```")[0]


class Slurm:
    """Two nodes of a core each; everything ends with `end`."""

    def __init__(self, folder):
        self.folder, self.shared = folder, folder / "shared"
        log = (folder / "cluster.log").open("wb")
        self._outside = subprocess.Popen(
            # It ends with this process, however that ends.
            ["setpriv", "--pdeathsig", "KILL", Path(__file__).with_name("slurm.sh"), folder],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + 120
        while not (folder / "ready").exists():
            assert time.monotonic() < deadline and self._outside.poll() is None, self.logs()
            time.sleep(0.1)
        (inside,) = psutil.Process(self._outside.pid).children()
        self.enter = ["nsenter", "--all", "--target", str(inside.pid), "--wd=/"]

    def logs(self):
        """The end of each log."""
        files = [self.folder / "cluster.log", *sorted((self.folder / "log").glob("*"))]
        return "\n".join(f"== {file.name}\n{file.read_text()[-2000:]}" for file in files)

    def run(self, *command):
        """What a command on the head prints."""
        done = subprocess.run(
            [*self.enter, *map(str, command)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def start(self, *command, log):
        """A process on the head, such as a server, whose output goes to a file."""
        with log.open("ab") as file:
            return subprocess.Popen([*self.enter, *map(str, command)], stdout=file, stderr=file)

    def submit(self, script):
        """The number of a job; `script` is a file below the shared folder."""
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": f"{SHARED}/home"}
        command = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
        output = f"--output={SHARED}/%j.out"
        return self.run(
            *command, "sbatch", "--parsable", output, f"--chdir={SHARED}", f"{SHARED}/{script}"
        )

    def state(self, job):
        """RUNNING, COMPLETED, TIMEOUT, …"""
        told = self.run("scontrol", "show", "job", job)
        return told.partition("JobState=")[2].split()[0]

    def output(self, job):
        """What the job has printed so far."""
        file = self.shared / f"{job}.out"
        return file.read_text() if file.exists() else ""

    def ended(self, job, timeout_s=600):
        """The state in which a job has ended."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job)) in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
            assert time.monotonic() < deadline, f"{state}\n{self.output(job)}\n{self.logs()}"
            time.sleep(1)
        return state

    def processes(self, title):
        """The processes of the cluster whose command line has these words."""
        found = []
        for process in psutil.Process(self._outside.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found += [process] if title in " ".join(process.cmdline()) else []
        return found

    def end(self):
        """Kill everything; namespaces, mounts and network go with their last process."""
        self._outside.kill()
        self._outside.wait()
