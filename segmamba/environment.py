"""What a result depends on beside the configuration: versions, hardware, the state of the code."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("segmamba", "torch", "numpy", "scipy", "nibabel", "ray", "mlflow", "monai", "mamba-ssm", "causal-conv1d", "triton")


def describe_environment():
    """A flat {str: str}: package versions, Python, operating system, CPU, GPUs with driver's CUDA, git commit."""
    import torch

    found = {"python": platform.python_version(), "system": platform.platform(), "cpu": _cpu_name(), "cpu cores": str(_cores())}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["gpu"] = ", ".join(gpus) if gpus else "none"
    if gpus:
        found["cuda"] = str(torch.version.cuda)
    return found | {"git commit": git_commit()}


def git_commit():
    """The commit of the checkout this code runs from, with "+changes" where files differ from it; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    try:
        run = {"cwd": folder, "capture_output": True, "text": True, "check": True, "timeout": 10}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **run).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if changed else "")


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
