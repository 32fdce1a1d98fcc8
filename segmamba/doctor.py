"""What this machine can train and how fast, what is missing, and the command that mends it.

Each check is a function of plain values, so that any machine can be put before it; `examine` reads them from this one.
"""

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

GIB = 2**30
CACHED_CASE_BYTES = (
    240 * 240 * 155 * (4 * 2 + 1)
)  # a BraTS case in the cache: four fp16 images and a uint8 label
TORCH_INDEX = {
    12: "cu126",
    13: "cu130",
}  # driver's CUDA major version to torch's wheels: within one, any driver runs them


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    state: Literal["ok", "note", "problem"]
    """note: runs, but slower or with less than it could. problem: stops a run."""
    found: str
    mend: str = ""
    """The command, or the act, that mends it."""


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi tells, which knows of GPUs that torch does not see."""

    version: str
    cuda: str
    """Newest CUDA that this driver runs, such as 12.4."""
    gpus: tuple


def examine(output):
    """[Check, ...] of this machine; `output` is the folder that results would go to."""
    import torch

    from segmamba.device import choose_device, mixed_dtype
    from segmamba.models import narrow_conv
    from segmamba.models.scan import choose_scan

    device, driver = choose_device(), read_driver()
    on_gpu = device.type == "cuda"
    checks = [check_torch(torch.__version__, torch.version.cuda, on_gpu, driver)]
    if on_gpu:
        checks += [
            check_kernels(_gpu_error()),
            check_convolutions(narrow_conv.obstacle()),
            check_gpu_memory(*torch.cuda.mem_get_info(device)),
        ]
    checks += [
        check_scan(*choose_scan("auto", device.type), on_gpu),
        check_precision(mixed_dtype(device, "mixed")),
    ]
    checks += [check_memory(free_memory()), check_disk(output, *disk_state(output))]
    if Path("/dev/shm").exists():
        checks.append(check_shared_memory(shutil.disk_usage("/dev/shm").total))
    return checks + [
        check_package(name, *import_state(name)) for name in ("ray", "mlflow", "nilearn")
    ]


def check_torch(version, built_for, sees_gpu, driver):
    """version: torch's; built_for: its CUDA version or None; driver: a Driver or None."""
    found = f"torch {version}" + (f", CUDA {built_for}" if built_for else ", a CPU build")
    if sees_gpu:
        return Check(
            "torch",
            "ok",
            f"{found}, driver {driver.version} (CUDA {driver.cuda})" if driver else found,
        )
    if driver is None:
        return Check(
            "torch",
            "note",
            f"{found}; no NVIDIA GPU here: the demo preset takes minutes, quick and paper want a GPU",
        )
    found = f"{found}; cannot use {', '.join(driver.gpus)} (driver {driver.version}, CUDA {driver.cuda})"
    major = int(driver.cuda.partition(".")[0])
    if built_for and int(built_for.partition(".")[0]) <= major:
        return Check(
            "torch",
            "note",
            f"{found}, though the driver is new enough",
            "echo $CUDA_VISIBLE_DEVICES; nvidia-smi",
        )
    if major < min(TORCH_INDEX):
        return Check("torch", "note", found, "update the NVIDIA driver to 580 or newer")
    index = TORCH_INDEX[min(major, max(TORCH_INDEX))]
    return Check(
        "torch",
        "note",
        found,
        f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}",
    )


def check_kernels(error):
    """error: the first line of what a convolution on the GPU raised, or None."""
    if error:
        return Check(
            "GPU kernels",
            "problem",
            f"a convolution fails: {error}",
            "install the torch for this GPU: https://pytorch.org",
        )
    return Check("GPU kernels", "ok", "a convolution runs")


def check_convolutions(obstacle):
    """obstacle: why our own kernels do not convolve the 32-channel levels, or None."""
    if obstacle:
        mend = "pip install cuda-bindings" if "not installed" in obstacle else ""
        return Check("convolutions", "ok", f"cuDNN's; our own for 32 channels: {obstacle}", mend)
    return Check(
        "convolutions", "ok", "our own for 32 channels in half precision, cuDNN's for the others"
    )


def check_scan(implementation, reason, on_gpu):
    """implementation: the selective scan that `model.scan = auto` takes here; reason: why."""
    if on_gpu and implementation != "mamba_ssm":
        return Check(
            "scan",
            "note",
            f"{implementation}: {reason}, without mamba-ssm's kernels",
            "make setup-gpu",
        )
    return Check("scan", "ok", f"{implementation}: {reason}")


def check_precision(dtype):
    """dtype: the autocast type of train.precision = mixed, or None."""
    why = {
        "bfloat16": "no loss scaling needed",
        "float16": "with loss scaling, as this GPU has no bf16",
        "fp32": "a CPU trains without autocast",
    }
    name = str(dtype).removeprefix("torch.") if dtype else "fp32"
    return Check("precision", "ok", f"{name}: {why[name]}")


def check_gpu_memory(free, total):
    """Bytes. The paper preset's step takes about 5 GiB."""
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 6 * GIB:
        mend = "nvidia-smi shows who takes it; or train with --set train.batch_size=1"
        return Check("GPU memory", "note", f"{found}; the paper preset takes about 5 GiB", mend)
    return Check("GPU memory", "ok", found)


def check_memory(free):
    """Bytes that this process may still take, whatever the machine has."""
    found = f"{free / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return Check(
            "memory",
            "problem",
            found,
            "close other programs, or run with --cpus 1; see them with: ps aux --sort=-rss | head",
        )
    if free < 8 * GIB:
        return Check(
            "memory",
            "note",
            f"{found}; trials that run at once share it",
            "run a study with --cpus 2",
        )
    return Check("memory", "ok", found)


def check_disk(folder, free, writable):
    """folder: where results go; free: bytes."""
    found = f"{free / GIB:.0f} GiB free for {folder}"
    mend = f"delete what is largest: du -sh {folder}/* | sort -h"
    if not writable:
        return Check(
            "disk", "problem", f"{folder} cannot be written", "choose another folder with --output"
        )
    if free < 2 * GIB:
        return Check("disk", "problem", found, mend)
    room = free // CACHED_CASE_BYTES
    if room < 1251:  # the training cases of BraTS 2021
        return Check("disk", "note", f"{found}: the cache of {room} BraTS cases", mend)
    return Check("disk", "ok", found)


def check_shared_memory(total):
    """Bytes of /dev/shm: Ray keeps its objects there, and the processes that read patches hand them over there."""
    found = f"/dev/shm of {total / GIB:.1f} GiB"
    mend = "docker run --shm-size=8g ..., or: sudo mount -o remount,size=8G /dev/shm"
    if total < GIB / 2:
        return Check(
            "shared memory",
            "problem",
            f"{found}: reading patches in parallel dies of a bus error",
            mend,
        )
    if total < 2 * GIB:
        return Check("shared memory", "note", f"{found}: Ray falls back to the disk", mend)
    return Check("shared memory", "ok", found)


def check_package(name, version, error):
    """version: None where it is not installed; error: the first line of what its import raised, or None."""
    needed = {"ray": "studies", "mlflow": "studies", "nilearn": "the phantom"}[name]
    if version is None:
        return Check(
            name,
            "note",
            f"not installed; {needed} need it"
            if needed == "studies"
            else f"not installed; {needed} needs it",
            "pip install -e '.[studies]'",
        )
    if error:
        return Check(
            name,
            "problem",
            f"{version} is installed but cannot be imported: {error}",
            f"pip install --force-reinstall {name}",
        )
    return Check(name, "ok", version)


def read_driver():
    """The Driver that nvidia-smi describes, or None."""
    try:
        run = {"capture_output": True, "text": True, "check": True, "timeout": 20}
        banner, listed = (
            subprocess.run(command, **run).stdout
            for command in (["nvidia-smi"], ["nvidia-smi", "-L"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_driver(banner, listed)


def parse_driver(banner, listed):
    """The Driver from the output of `nvidia-smi` and `nvidia-smi -L`; None where they show no GPU."""
    version, cuda = (
        re.search(r"Driver Version:\s*([\d.]+)", banner),
        re.search(r"CUDA (?:UMD )?Version:\s*(\d+\.\d+)", banner),
    )
    gpus = tuple(re.findall(r"^GPU \d+: (.+?) \(UUID", listed, re.MULTILINE))
    return Driver(version[1], cuda[1], gpus) if version and cuda and gpus else None


def parse_free_memory(meminfo, limit, used):
    """Bytes free: what /proc/meminfo calls available, or what a container's limit (cgroup v2 memory.max, .current) leaves."""
    available = int(re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)[1]) * 1024
    return (
        available if not limit.strip().isdigit() else min(available, max(int(limit) - int(used), 0))
    )


def as_rows(checks):
    """Plain dicts, for JSON."""
    return [asdict(check) for check in checks]


def exit_code(checks):
    """1 where something would stop a run."""
    return int(any(check.state == "problem" for check in checks))


def render(checks, versions, console):
    """The checklist, what mends it, and the versions, on a rich Console."""
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("PROBLEM", "bold red")}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        mark, style = marks[check.state]
        told = Text(check.found)
        if check.mend:
            told.append(f"\n-> {check.mend}", style="cyan")
        table.add_row(Text(mark, style=style), check.name, told)
    console.print(table)
    console.print()
    installed = [
        f"{name} {version}" for name, version in versions.items() if version != "not installed"
    ]
    console.print(Text("; ".join(installed), style="dim"))


def _gpu_error():
    """The first line of what a small convolution on the GPU raises, or None."""
    import torch

    try:
        torch.nn.functional.conv3d(
            torch.ones(1, 1, 4, 4, 4, device="cuda"), torch.ones(1, 1, 3, 3, 3, device="cuda")
        ).sum().item()
    except RuntimeError as error:
        return str(error).strip().splitlines()[0]
    return None


def free_memory():
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # no /proc: all there is
    try:
        limit, used = (
            Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current")
        )
    except OSError:
        limit, used = "max", "0"
    return parse_free_memory(meminfo, limit, used)


def disk_state(folder):
    """(bytes free, whether it can be written) where `folder` is or would be made."""
    there = next(p for p in (Path(folder).resolve(), *Path(folder).resolve().parents) if p.exists())
    return shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def import_state(name):
    """(version, error) of a package; version None where it is not installed."""
    try:
        version = importlib.metadata.version(name)
        importlib.import_module(name)
    except importlib.metadata.PackageNotFoundError:
        return None, None
    except Exception as error:  # whatever a broken installation raises is what the user must see
        return version, f"{type(error).__name__}: {error}".splitlines()[0]
    return version, None
