"""What a result depends on beside the configuration: versions, hardware, the state of the code.

Packages and code are told as they were when the process first asked: it runs those, whatever has become of the files since.
"""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

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


def describe_environment():
    """A flat {str: str}: package versions, Python, operating system, CPU, GPUs with their driver, git commit."""
    import torch

    found = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu cores": str(_cores()),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["gpu"] = ", ".join(gpus) if gpus else "none"
    if gpus:
        found["cuda"], found["driver"] = str(torch.version.cuda), _driver()
    return found | {"git commit": git_commit()}


@functools.cache
def all_packages():
    """{name: version} of everything installed."""
    return dict(
        sorted(
            (d.metadata["Name"], d.version)
            for d in importlib.metadata.distributions()
            if d.metadata["Name"]
        )
    )


@functools.cache
def git_commit():
    """The commit of the checkout this code runs from, with "+changes" where files differ from it; "unknown" outside a checkout."""
    commit = _git("rev-parse", "HEAD").strip()
    return (
        commit
        + (
            "+changes"
            if commit and _git("status", "--porcelain", "--untracked-files=no").strip()
            else ""
        )
        or "unknown"
    )


@functools.cache
def git_diff():
    """What the checkout's files differ by from its commit; empty where they do not, and outside a checkout."""
    return _git("diff", "HEAD", "--", ".")


def _git(*arguments):
    try:
        options = {
            "capture_output": True,
            "text": True,
            "check": True,
            "timeout": 10,
            "errors": "replace",
        }
        return subprocess.run(["git", *arguments], cwd=Path(__file__).parents[1], **options).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _driver():
    """Version of the NVIDIA driver."""
    try:
        first = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "unknown")


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_name():
    """Of the processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
