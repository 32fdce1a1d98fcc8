"""What a result depends on beside the configuration: versions, hardware, the state of the code.

Packages and code are recorded as they were when the process first asked: the process runs those,
even if the files change later.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from segmamba.redaction import redacted

PACKAGES = (
    "segmamba",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "ray",
    "mlflow",
    "monai",
    "mamba-ssm",
    "causal-conv1d",
    "triton",
)


def describe_environment() -> dict[str, str]:
    """Describe what this process runs on.

    Returns:
        Versions of PACKAGES ("not installed" where one is missing) and of Python, the operating
        system, the CPU, the GPUs with their driver, and the git commit.
    """
    import torch

    record = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu cores": str(_cores()),
    }
    for name in PACKAGES:
        try:
            record[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            record[name] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    record["gpu"] = ", ".join(gpus) if gpus else "none"
    if gpus:
        record["cuda"], record["driver"] = str(torch.version.cuda), _driver()
    return record | {"git commit": git_commit()}


def digest_of_code(root: Path, rooms: Sequence[str]) -> str:
    """Digest source files, kernels and templates included, committed or not.

    Args:
        root: The folder of the package.
        rooms: Folders and files below it; the order counts.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for room in rooms:
        paths = sorted((root / room).rglob("*")) if (root / room).is_dir() else [root / room]
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def all_packages() -> dict[str, str]:
    """List everything that is installed, as name to version."""
    # A distribution reads and parses its file each time that it is asked for metadata.
    read = (distribution.metadata for distribution in importlib.metadata.distributions())
    return dict(sorted((each["Name"], each["Version"]) for each in read if each["Name"]))


def command() -> str:
    """The command that began this process, as a shell takes it, without passwords."""
    return shlex.join([Path(sys.executable).name, *map(redacted, sys.argv)])


@functools.cache
def git_commit() -> str:
    """Name the commit of the checkout that this code runs from.

    Returns:
        The commit's hash, with "+changes" where tracked files differ from it; "unknown" outside a
        checkout.
    """
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no").strip()
    return f"{commit}+changes" if changed else commit


@functools.cache
def git_diff() -> str:
    """Return how the checkout's files differ from its commit, without passwords.

    Returns:
        What `git diff` prints; empty outside a checkout, and where SEGMAMBA_GIT_DIFF is 0.
    """
    if os.environ.get("SEGMAMBA_GIT_DIFF") == "0":
        return ""
    return redacted(_git("diff", "HEAD", "--", "."))


def _git(*arguments: str) -> str:
    """Run git in the checkout of this code; empty where it lies in none of its own."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():  # installed, perhaps inside another project's checkout
        return ""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _driver() -> str:
    """Read the version of the NVIDIA driver."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "unknown")


def _cores() -> int | None:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_name() -> str:
    """Read the processor's name, as the processor gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
