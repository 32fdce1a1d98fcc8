"""What this machine has: GPUs and their driver, free memory, disk, and installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says, which knows of GPUs that torch does not see."""

    version: str
    cuda: str
    """The newest CUDA that this driver runs, such as 12.4."""
    gpus: tuple[str, ...]
    """The GPUs' names."""


def read_driver() -> Driver | None:
    """Ask nvidia-smi for the driver; None where there is no GPU or no driver."""
    try:
        banner, listing = (
            subprocess.run(
                command, capture_output=True, encoding="utf-8", check=True, timeout=20
            ).stdout
            for command in (["nvidia-smi"], ["nvidia-smi", "-L"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_driver(banner, listing)


def parse_driver(banner: str, listing: str) -> Driver | None:
    """Read the driver from what nvidia-smi prints.

    Args:
        banner: The output of `nvidia-smi`.
        listing: The output of `nvidia-smi -L`.

    Returns:
        The driver, or None where the output shows no GPU.
    """
    version = re.search(r"Driver Version:\s*([\d.]+)", banner)
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", banner)
    gpus = tuple(re.findall(r"^GPU \d+: (.+?) \(UUID", listing, re.MULTILINE))
    return Driver(version[1], cuda[1], gpus) if version and cuda and gpus else None


def gpu_error() -> str | None:
    """Run a small convolution on the GPU; return the first line of its error, or None."""
    import torch

    try:
        torch.nn.functional.conv3d(
            torch.ones(1, 1, 4, 4, 4, device="cuda"), torch.ones(1, 1, 3, 3, 3, device="cuda")
        ).sum().item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def free_memory() -> int:
    """Measure the bytes of memory that this process may still take."""
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # no /proc: all there is
    try:
        limit, used = (
            Path("/sys/fs/cgroup", name).read_text(encoding="utf-8")
            for name in ("memory.max", "memory.current")
        )
    except OSError:
        limit, used = "max", "0"
    return parse_free_memory(meminfo, limit, used)


def parse_free_memory(meminfo: str, limit: str, used: str) -> int:
    """Compute the bytes of memory that are free.

    Args:
        meminfo: The content of /proc/meminfo.
        limit: A container's limit, cgroup v2's memory.max: bytes, or "max" for none.
        used: What the container uses of it, memory.current.

    Returns:
        What the machine calls available, or what the container's limit leaves if that is less.
    """
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match is None:
        raise ValueError("/proc/meminfo has no line MemAvailable")
    available = int(match[1]) * 1024
    if not limit.strip().isdigit():
        return available
    return min(available, max(int(limit) - int(used), 0))


def disk_state(folder: Path | str) -> tuple[int, bool]:
    """Look at the disk where a folder is or would be made.

    Args:
        folder: The folder.

    Returns:
        The bytes that are free, and whether the folder can be written.
    """
    place = Path(folder).resolve()
    existing = next(path for path in (place, *place.parents) if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return shutil.disk_usage(existing).free, writable


def import_state(name: str) -> tuple[str | None, str | None]:
    """Import a package.

    Args:
        name: Its name.

    Returns:
        Its version, None where it is not installed; and the first line of what its import raised,
        or None.
    """
    try:
        version = importlib.metadata.version(name)
        importlib.import_module(name)
    except importlib.metadata.PackageNotFoundError:
        return None, None
    except Exception as error:  # whatever a broken installation raises, the user must see it
        return version, f"{type(error).__name__}: {error}".splitlines()[0]
    return version, None
