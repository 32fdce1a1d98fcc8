"""Random kills of all that takes part in a study, an ensemble or a training."""

import collections
import contextlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import warm
from tests.orchestration.faults import ROOT, SETTINGS

CHANCES = {
    "driver": 1.0,
    "raylet": 1.0,
    "gcs_server": 1.0,
    "trial": 2.0,
    "server": 2.5,
    "loader": 2.5,
}
"""Kinds of victims and how often, relative to each other, one is killed where all are there."""
KINDS = tuple(CHANCES)
EARLY = 0.25
"""Share of the starts that are disturbed before anything trains in them. The others are left to get
there: on a busy machine none ever would."""
CATCH_UP = 0.4
"""What pauses are multiplied by while there were too few kills for the time that has passed."""
FEWEST = 5
"""Kills of each kind."""
AWAY_S = (3.0, 10.0)
"""Least and most seconds after which a killed server is started again."""
PAUSE_S = 2.0
"""Seconds after which a user gives the command again."""
WAIT_S = 3.0
"""Seconds after which victims are looked for again where there was none."""
MOST_STARTS = 60
LONGEST_S = 60.0
"""Seconds after a driver's death within which none of its processes is left."""
CHANGES = SETTINGS | {
    "train.epochs": "6",
    "train.steps_per_epoch": "6",
    "data.workers": "2",
    "data.validation_cases": "1",
}
SET = [part for name, value in CHANGES.items() for part in ("--set", f"{name}={value}")]
EXPERIMENTS = ROOT / "experiments"
OF_STUDIES = ["--cpus", "1", "--no-viewer", *SET, "--resume"]
WORKS = {
    "study": [
        EXPERIMENTS / "ablate_depth.py",
        *("--seeds", "1", "--arms", "depth 2", "--arms", "depth 0"),
        *OF_STUDIES,
    ],
    "ensemble": [EXPERIMENTS / "ensemble.py", "--size", "2", *OF_STUDIES],
    "training": [
        "-c",
        "import torch; torch.set_num_threads(1)\nfrom segmamba.cli import main; main()",
        *("train", "--device", "cpu", *SET, "--resume"),
    ],
}
"""What a user runs, the same words for the first start and every further one."""


def start(work, cwd, env):
    """A start of a work, in a session of its own."""
    command = [sys.executable, *WORKS[work]]
    return warm.Process(command, cwd=cwd, env=env, stderr=subprocess.STDOUT, session=True)


def victims(driver):
    """{kind: processes} of those below a driver."""
    found = collections.defaultdict(list)
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(driver.pid).children(recursive=True):
            if kind := _kind(process):
                found[kind].append(process)
    return found


def _kind(process):
    with contextlib.suppress(psutil.Error):
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        name = process.name()
        if name == "pt_data_worker":
            return "loader"
        if name in ("raylet", "gcs_server"):
            return name
        if "ImplicitFunc" in " ".join(process.cmdline()):
            return "trial"
    return None


def family(driver):
    """A driver's process and all below it."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(driver.pid)
        return [process, *process.children(recursive=True)]
    return []


def alive(processes):
    """Those of the processes that still run."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@dataclass
class Kill:
    """A kill, and how long it took until somebody had seen to it."""

    kind: str
    work: str
    at_s: float
    """Since the first start."""
    noticed_s: float | None = None
    """Until the driver ended, where Ray was killed; until all its processes were gone, where it was
    the driver; until another one worked, where it was a trial or a loader; until it answered again,
    where it was the server. None where the work ended before."""
    sign: object = None
    """Tells whether that has happened."""


@dataclass
class Chaos:
    """Kills at random while works run, until there were enough of each kind."""

    server: object
    rng: object
    kills: int
    least_s: float
    began: float = field(default_factory=time.monotonic)
    done: list[Kill] = field(default_factory=list)
    starts: list[tuple[str, int, float]] = field(default_factory=list)
    """Work, exit code and seconds of every start."""
    seen: set[psutil.Process] = field(default_factory=set)
    """All processes of all drivers."""
    _next_s: float = 0.0
    _server_at: float | None = None
    """When the server, which is away, is started again."""
    _looked: float = 0.0
    _trains: bool = False
    """Whether something has trained in this start."""
    _early: bool = False
    """Whether this start is disturbed before."""

    def __post_init__(self):
        self._next_s = self._pause()

    @property
    def now_s(self):
        """Seconds since the first start."""
        return time.monotonic() - self.began

    @property
    def over(self):
        """Whether there were enough kills."""
        hits = self.hits()
        enough = len(self.done) >= self.kills and min(hits.values()) >= min(FEWEST, self.kills // 8)
        return enough and self.now_s >= self.least_s

    def hits(self):
        """{kind: kills}."""
        return {kind: sum(kill.kind == kind for kill in self.done) for kind in KINDS}

    def run(self, work, cwd, env, is_done):
        """Start a work again and again until it ends by itself.

        is_done: tells of a work whose driver was killed whether that was at its very end.
        Returns what each start printed.
        """
        printed = []
        for _ in range(MOST_STARTS):
            began, driver = self.now_s, start(work, cwd, env)
            self._trains, self._early = False, self.rng.random() < EARLY
            while driver.poll() is None:
                self._step(work, driver)
                time.sleep(0.1)
            output, _ = driver.communicate(timeout=LONGEST_S)
            printed.append(output)
            self.starts.append((work, driver.returncode, self.now_s - began))
            print(f"{self.now_s:7.1f} s  {work} ended with {driver.returncode}", flush=True)
            assert "Traceback" not in output, output
            killed = driver.returncode == -9
            if killed:
                self.await_server()
            if driver.returncode == 0 or (killed and is_done()):
                return printed
            assert killed or re.search(r"^error: ", output, re.M) or "--resume" in output, output
            self._wait(PAUSE_S)
        raise AssertionError("\n".join(printed))

    def settle(self):
        """Bring the server back, and wait for what the last kills are still to show."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline and any(kill.sign for kill in self.done):
            self._see_to_server()
            self._look()
            time.sleep(0.2)

    def await_server(self):
        """Wait until the server answers; start it where that is due."""
        while not self.server.answers():
            self._see_to_server()
            self._look()
            time.sleep(0.2)

    def _wait(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._see_to_server()
            self._look()
            time.sleep(0.1)

    def _step(self, work, driver):
        self._see_to_server()
        if time.monotonic() - self._looked > 0.5:
            self._looked = time.monotonic()
            self.seen.update(family(driver))
            self._look()
        if not self.over and self.now_s >= self._next_s:
            struck = self._strike(work, driver)
            self._next_s = self.now_s + (self._pause() if struck else WAIT_S)

    def _pause(self):
        mean_s = self.least_s / self.kills
        behind = len(self.done) + 1 < self.now_s / mean_s
        return mean_s * self.rng.uniform(0.4, 1.6) * (CATCH_UP if behind else 1)

    def _strike(self, work, driver):
        """Kill one of those that are there, rarer kinds with better chances; whether one was."""
        there = victims(driver)
        if driver.poll() is None:
            there["driver"] = [driver]
        if self._server_at is None and self.server.answers():
            there["server"] = [self.server]
        self._trains = self._trains or "loader" in there
        if not there or not (self._trains or self._early):
            return False
        kinds, hits = sorted(there), self.hits()
        chances = [CHANCES[kind] * (1 + hits[kind] / CHANCES[kind]) ** -2 for kind in kinds]
        (kind,) = self.rng.choices(kinds, chances)
        victim = self.rng.choice(sorted(there[kind], key=lambda one: getattr(one, "pid", 0)))
        related = family(driver)
        self.seen.update(related)
        kill = Kill(kind, work, self.now_s)
        kill.sign = self._sign(kill, driver, related)
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            self.done.append(kill)
            if kind == "server":
                self._server_at = time.monotonic() + self.rng.uniform(*AWAY_S)
            print(f"{kill.at_s:7.1f} s  killed a {kind} of the {work}", flush=True)
            return True
        return False

    def _sign(self, kill, driver, related):
        """What shows that a kill was seen to."""
        if kill.kind == "server":
            return lambda: self._server_at is None and self.server.answers()
        if kill.kind == "driver":
            return lambda: not alive(related)
        if kill.kind in ("raylet", "gcs_server"):
            return lambda: driver.poll() is not None
        before = {process.pid for process in related}

        def another():
            if driver.poll() is not None:
                return None
            return any(process.pid not in before for process in victims(driver)[kill.kind])

        return another

    def _look(self):
        for kill in self.done:
            if kill.sign:
                seen = kill.sign()
                if seen:
                    kill.noticed_s = self.now_s - kill.at_s
                if seen or seen is None:
                    kill.sign = None

    def _see_to_server(self):
        if self._server_at is not None and time.monotonic() >= self._server_at:
            self.server.launch()
            self._server_at = None


def table(chaos):
    """The kills, a line for each kind, and figures of the whole."""
    lines = [f"{'killed':12}{'times':>6}{'median s':>10}{'most s':>8}   at seconds"]
    for kind in KINDS:
        kills = [kill for kill in chaos.done if kill.kind == kind]
        took = sorted(kill.noticed_s for kill in kills if kill.noticed_s is not None)
        middle, most = (f"{took[len(took) // 2]:.1f}", f"{took[-1]:.1f}") if took else ("", "")
        at = " ".join(f"{kill.at_s:.0f}" for kill in kills)
        lines.append(f"{kind:12}{len(kills):6}{middle:>10}{most:>8}   {at}")
    for work in WORKS:
        ends = [(code, seconds) for name, code, seconds in chaos.starts if name == work]
        codes = dict(sorted(collections.Counter(code for code, _ in ends).items()))
        lines.append(f"{work}: {len(ends)} starts, exit codes {codes}")
    lines.append(f"{len(chaos.done)} kills in {chaos.now_s:.0f} s, {len(chaos.starts)} starts")
    return "\n".join(lines)


def is_temporary(path: Path) -> bool:
    """Whether a name is that of a temporary or a lock."""
    return path.name.startswith(".") or path.suffix in {".part", ".new", ".tmp", ".pending"}
