"""From the command `segmamba train --preset demo` to the first optimiser step, imports included.

    python benchmarks/start.py [--json FILE] [--times]

fresh:   an empty results folder, so that the phantom cases are made and prepared.
again:   the phantom cases are there.
--times: also when each of the run's phases begins.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figure, at_most, command_line, report

GOAL_S = 12.0
FIRST_STEP = """
import os, sys, time
from segmamba.commands.run_progress import RunProgress
def printed(name, after):
    method = getattr(RunProgress, name)
    def call(self, *arguments, **options):
        print("AT", name, *(a for a in arguments if isinstance(a, str)), time.time(), flush=True)
        if name == after:
            os._exit(0)
        return method(self, *arguments, **options)
    setattr(RunProgress, name, call)
for name in ("steps", "on_begin", "on_step"):
    printed(name, "on_step")
from segmamba.cli import main
sys.argv = ["segmamba", "train", "--preset", "demo", "--device", "cpu"]
main()
"""


def seconds_to_first_step(cwd: str) -> tuple[float, list[tuple[str, float]]]:
    """Seconds until the first step, and every phase with its seconds after the command."""
    root = str(Path(__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    }
    began = time.time()
    process = subprocess.run(
        [sys.executable, "-c", FIRST_STEP],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = [line.split() for line in process.stdout.splitlines() if line.startswith("AT ")]
    if not lines or lines[-1][1] != "on_step":
        raise SystemExit(process.stdout + process.stderr)
    phases = [(" ".join(words[1:-1]), float(words[-1]) - began) for words in lines]
    return phases[-1][1], phases


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as cwd:
        for which in ("fresh", "again"):
            seconds, phases = seconds_to_first_step(cwd)
            figures[f"command to first step, {which}"] = at_most(seconds, GOAL_S, "s")
            print(f"{which:8}{seconds:8.1f} s", flush=True)
            if options.times:
                for phase, at in phases:
                    print(f"    {at:6.1f} s  {phase}")
    report(figures, options.json)


if __name__ == "__main__":
    main()
