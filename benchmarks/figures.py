"""What every benchmark shares: figures with goals, the table on the screen and the JSON file.

`python benchmarks/NAME.py --json FILE` writes

    {"figures": {name: {"value", "unit", "goal", "holds"}}, "machine": {...}}

`goal` is text such as "<= 2", or "" where a figure has none; `holds` is then null.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_COMPARISONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True)
class Figure:
    """One measured value; `at_most`, `below`, `at_least` and `above` make those with a goal."""

    value: float | None
    """What was measured; None where it was not reached."""
    unit: str = ""
    goal: str = ""
    """The goal as text, "" where there is none."""
    holds: bool | None = None
    """Whether the value reaches its goal, None where there is none."""

    @property
    def verdict(self) -> str:
        """`holds`, `MISSED`, or nothing where there is no goal."""
        return "" if self.holds is None else "holds" if self.holds else "MISSED"


def at_most(value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should not exceed its goal."""
    return _compared(value, "<=", goal, unit)


def below(value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should stay under its goal."""
    return _compared(value, "<", goal, unit)


def at_least(value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should reach its goal."""
    return _compared(value, ">=", goal, unit)


def above(value: float, goal: float, unit: str = "") -> Figure:
    """A figure that should exceed its goal."""
    return _compared(value, ">", goal, unit)


def command_line(description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark: its docstring as the help, and `--json`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser


def report(
    figures: Mapping[str, Figure], json_file: Path | None, *, table: bool = True, **machine: object
) -> None:
    """Print the figures as a table and write them to `json_file`.

    Args:
        figures: The figures by name.
        json_file: Where the JSON goes; None writes none.
        table: False where the script has printed a table of its own.
        machine: What else the figures depend on, beside what `describe_machine` finds.
    """
    if table:
        print()
        for line in table_lines(figures):
            print(line)
    if json_file is not None:
        write_figures(json_file, figures, **machine)


def table_lines(figures: Mapping[str, Figure]) -> Iterable[str]:
    """The figures as lines: name, value, unit, goal and whether it holds."""
    width = max((len(name) for name in figures), default=0)
    for name, figure in figures.items():
        value = "-" if figure.value is None else f"{figure.value:.4g}"
        goal = f"goal {figure.goal}" if figure.goal else ""
        yield f"{name:{width}} {value:>9} {figure.unit:7} {goal:16} {figure.verdict}".rstrip()


def write_figures(json_file: Path, figures: Mapping[str, Figure], **machine: object) -> None:
    """Write the figures and the machine; a run that ends halfway leaves no half file."""
    content = {
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "machine": describe_machine() | machine,
    }
    temporary = json_file.with_name(json_file.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, json_file)


def describe_machine() -> dict[str, object]:
    """This machine, with torch and the GPU where the benchmark has imported torch."""
    machine: dict[str, object] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        machine |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
        machine["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return machine


def any_missed(figures: Mapping[str, Figure]) -> bool:
    """Whether a figure misses its goal."""
    return any(figure.holds is False for figure in figures.values())


def _compared(value: float, sign: str, goal: float, unit: str) -> Figure:
    holds = bool(_COMPARISONS[sign](value, goal))
    return Figure(float(value), unit, f"{sign} {goal:g}", holds)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.split(": ")[1] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
