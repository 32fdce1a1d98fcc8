"""From the command to the first optimiser step: `segmamba train --preset demo`, imports, data and all.

    python benchmarks/start.py [--json FILE] [--times]

fresh: an empty results folder, so that the phantom cases are made and prepared. again: they are there.
--times: also where the time goes, from `python -X importtime` and from the run's own phases.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_S = 12.0
FIRST_STEP = """
import os, sys, time
from segmamba.commands.run_progress import RunProgress
def told(name, after):
    method = getattr(RunProgress, name)
    def call(self, *arguments, **options):
        print("AT", name, *(a for a in arguments if isinstance(a, str)), time.time(), flush=True)
        if name == after:
            os._exit(0)
        return method(self, *arguments, **options)
    setattr(RunProgress, name, call)
for name in ("steps", "on_begin", "on_step"):
    told(name, "on_step")
from segmamba.cli import main
sys.argv = ["segmamba", "train", "--preset", "demo", "--device", "cpu"]
main()
"""


def seconds_to_first_step(cwd):
    """(seconds, [(phase, seconds after the command)])."""
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as cwd:
        for which in ("fresh", "again"):
            seconds, phases = seconds_to_first_step(cwd)
            figures[f"command to first step, {which}"] = {
                "value": seconds,
                "unit": "s",
                "goal": f"<= {GOAL_S:g}",
                "holds": seconds <= GOAL_S,
            }
            print(f"{which:8}{seconds:8.1f} s   (goal {GOAL_S:g} s)", flush=True)
            if options.times:
                for phase, at in phases:
                    print(f"    {at:6.1f} s  {phase}")
    if options.json:
        machine = {
            "cpu": platform.processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
