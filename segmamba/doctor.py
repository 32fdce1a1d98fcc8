"""`segmamba doctor`: what this machine can train, what is missing, and what mends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.doctor_checks import (
    Check,
    check_convolutions,
    check_disk,
    check_gpu_memory,
    check_kernels,
    check_memory,
    check_package,
    check_precision,
    check_scan,
    check_shared_memory,
    check_torch,
)
from segmamba.machine_state import disk_state, free_memory, gpu_error, import_state, read_driver

if TYPE_CHECKING:
    from rich.console import Console

SHARED_MEMORY = Path("/dev/shm")


def examine(output: Path) -> list[Check]:
    """Check this machine.

    Args:
        output: The folder that results would go to.
    """
    import torch

    from segmamba.device import choose_device, mixed_dtype
    from segmamba.models import narrow_conv
    from segmamba.models.scan import choose_scan

    device, driver = choose_device(), read_driver()
    on_gpu = device.type == "cuda"
    checks = [check_torch(torch.__version__, torch.version.cuda, driver, sees_gpu=on_gpu)]
    if on_gpu:
        checks += [
            check_kernels(gpu_error()),
            check_convolutions(narrow_conv.obstacle()),
            check_gpu_memory(*torch.cuda.mem_get_info(device)),
        ]
    implementation, reason = choose_scan("auto", device.type)
    free, writable = disk_state(output)
    checks += [
        check_scan(implementation, reason, on_gpu=on_gpu),
        check_precision(mixed_dtype(device, "mixed")),
        check_memory(free_memory(), on_gpu=on_gpu),
        check_disk(output, free, writable=writable),
    ]
    if SHARED_MEMORY.exists():
        checks.append(check_shared_memory(shutil.disk_usage(SHARED_MEMORY).total))
    return checks + [
        check_package(name, *import_state(name)) for name in ("ray", "mlflow", "nilearn")
    ]


def as_rows(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Return the checks as plain dicts, for JSON."""
    return [asdict(check) for check in checks]


def exit_code(checks: Iterable[Check]) -> int:
    """Return 1 where something would stop a run, else 0."""
    return int(any(check.state == "problem" for check in checks))


def render(checks: Iterable[Check], versions: Mapping[str, str], console: Console) -> None:
    """Print the checklist, what mends it, and the versions.

    Args:
        checks: The lines of the checklist.
        versions: What `describe_environment` returned.
        console: Where they are printed.
    """
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark, style = marks[check.state]
        text = Text(check.found)
        if check.mend:
            text.append(f"\n-> {check.mend}", style="cyan")
        table.add_row(Text(mark, style=style), check.name, text)
    console.print(table)
    console.print()
    installed = [
        f"{name} {version}" for name, version in versions.items() if version != "not installed"
    ]
    console.print(Text("; ".join(installed), style="dim"))
