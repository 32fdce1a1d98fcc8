"""The checks of `segmamba doctor`: what a machine's state means for a run, and what mends it.

Each check is a function of plain values, so that tests can put any machine before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from segmamba.machine_state import Driver

GIB = 2**30
CACHED_CASE_BYTES = 240 * 240 * 155 * (4 * 2 + 1)
"""A BraTS case in the cache: four fp16 images and a uint8 label."""
TRAINING_CASES = 1251
"""The training cases of BraTS 2021."""
PROGRAM_BYTES = int(1.5 * GIB)
"""The resident memory of a study's driver, of Ray and of a trial's process, without the training: a
process with torch, Ray and MLflow takes 0.5 GiB."""
CUDA_BYTES = int(1.5 * GIB)
"""What CUDA's libraries and pinned patches add to it on a machine with a GPU."""
TRAINING_GIB = {
    "cpu": {"demo": 0.2, "quick": 12.0, "paper": 12.0, "strong": 12.0},
    "cuda": {"demo": 0.25, "quick": 5.5, "paper": 5.5, "strong": 5.5},
}
"""The peak of a training step of each preset, as `segmamba describe` estimates it, rounded up:
what torch keeps differs a little from processor to processor."""
DEMO_DISK_BYTES = GIB
"""The phantom, its cache and the checkpoints of a demo study: a few hundred MiB."""
TORCH_INDEX = {12: "cu126", 13: "cu130"}
"""The driver's CUDA major version to torch's wheels; within one, any driver runs them."""


@dataclass(frozen=True)
class Check:
    """One line of the checklist."""

    name: str
    state: Literal["ok", "note", "problem"]
    """note: runs are possible, but slower or with less than they could have. problem: a run stops
    at it."""
    found: str
    """What was found."""
    mend: str = ""
    """The command, or the act, that mends it."""


def check_torch(
    version: str, built_for: str | None, driver: Driver | None, *, sees_gpu: bool
) -> Check:
    """Match torch with the driver, and name the wheel that fits.

    Args:
        version: Torch's version.
        built_for: The CUDA version that torch was built for, or None.
        driver: The driver, or None.
        sees_gpu: Whether torch sees a GPU.
    """
    found = f"torch {version}" + (f", CUDA {built_for}" if built_for else ", a CPU build")
    if sees_gpu:
        with_driver = f", driver {driver.version} (CUDA {driver.cuda})" if driver else ""
        return Check("torch", "ok", found + with_driver)
    if driver is None:
        advice = "the demo preset takes minutes, quick and paper want a GPU"
        return Check("torch", "note", f"{found}; no NVIDIA GPU here: {advice}")
    gpus = f"{', '.join(driver.gpus)} (driver {driver.version}, CUDA {driver.cuda})"
    found = f"{found}; cannot use {gpus}"
    major = int(driver.cuda.partition(".")[0])
    if built_for and int(built_for.partition(".")[0]) <= major:
        found = f"{found}, though the driver is new enough"
        return Check("torch", "note", found, "echo $CUDA_VISIBLE_DEVICES; nvidia-smi")
    if major < min(TORCH_INDEX):
        return Check("torch", "note", found, "update the NVIDIA driver to 580 or newer")
    index = f"https://download.pytorch.org/whl/{TORCH_INDEX[min(major, max(TORCH_INDEX))]}"
    return Check("torch", "note", found, f"pip install --force-reinstall torch --index-url {index}")


def check_kernels(error: str | None) -> Check:
    """Check that a convolution runs on the GPU.

    Args:
        error: The first line of what the convolution raised, or None.
    """
    if error:
        mend = "install the torch for this GPU: https://pytorch.org"
        return Check("GPU kernels", "problem", f"a convolution fails: {error}", mend)
    return Check("GPU kernels", "ok", "a convolution runs")


def check_convolutions(obstacle: str | None) -> Check:
    """Say whose convolutions run the 32-channel levels.

    Args:
        obstacle: Why our own kernels do not, or None.
    """
    if obstacle:
        mend = "pip install cuda-bindings" if "not installed" in obstacle else ""
        return Check("convolutions", "ok", f"cuDNN's; our own for 32 channels: {obstacle}", mend)
    return Check(
        "convolutions", "ok", "our own for 32 channels in half precision, cuDNN's for the others"
    )


def check_scan(implementation: str, reason: str, *, on_gpu: bool) -> Check:
    """Say which selective scan `model.scan = auto` takes here.

    Args:
        implementation: Its name.
        reason: Why it is this one.
        on_gpu: Whether a GPU runs it.
    """
    found = f"{implementation}: {reason}"
    if on_gpu and implementation != "mamba_ssm":
        return Check("scan", "note", f"{found}, without mamba-ssm's kernels", "make setup-gpu")
    if implementation == "portable":
        slower = f"{found}; our kernels for a CPU are faster"
        return Check("scan", "note", slower, "install a C compiler: gcc or clang, as cc")
    return Check("scan", "ok", found)


def check_precision(dtype: torch.dtype | None) -> Check:
    """Say what `train.precision = mixed` is here.

    Args:
        dtype: Its autocast type, or None.
    """
    reasons = {
        "bfloat16": "no loss scaling needed",
        "float16": "with loss scaling, as this GPU has no bf16",
        "fp32": "a CPU trains without autocast",
    }
    name = str(dtype).removeprefix("torch.") if dtype else "fp32"
    return Check("precision", "ok", f"{name}: {reasons[name]}")


def fitting(free: int, needs: Mapping[str, float]) -> str:
    """Say which presets there is enough of something for.

    Args:
        free: Bytes that are free.
        needs: Bytes that each preset needs.

    Returns:
        "enough for demo; too small for quick, paper and strong (12.0 GiB)", or one of the two.
    """
    enough = [name for name, need in needs.items() if need <= free]
    small = {name: need for name, need in needs.items() if need > free}
    parts = [f"enough for {_listed(enough)}"] if enough else []
    if small:
        parts.append(f"too small for {_listed(list(small))} ({max(small.values()) / GIB:.1f} GiB)")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check_gpu_memory(free: int, total: int) -> Check:
    """Check the GPU's memory.

    Args:
        free: Bytes.
        total: Bytes.
    """
    needs = {name: gib * GIB for name, gib in TRAINING_GIB["cuda"].items()}
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free: {fitting(free, needs)}"
    if free < max(needs.values()):
        mend = "nvidia-smi shows who takes it; or train with --set train.batch_size=1"
        return Check("GPU memory", "note", found, mend)
    return Check("GPU memory", "ok", found)


def check_memory(free: int, *, on_gpu: bool) -> Check:
    """Check the memory.

    Args:
        free: The bytes that this process may still take, whatever the machine has.
        on_gpu: Whether a GPU trains, in memory of its own.
    """
    needs = {
        name: PROGRAM_BYTES + (CUDA_BYTES if on_gpu else gib * GIB)
        for name, gib in TRAINING_GIB["cpu"].items()
    }
    found = f"{free / GIB:.1f} GiB free: {fitting(free, needs)}"
    if free < 2 * GIB:
        mend = (
            "close other programs, or run with --cpus 1; see them with: ps aux --sort=-rss | head"
        )
        return Check("memory", "problem", found, mend)
    if free < 8 * GIB:
        found = f"{found}; trials that run at once share it"
        return Check("memory", "note", found, "run a study with --cpus 2")
    if free < max(needs.values()):
        return Check("memory", "note", found, "train with --set train.batch_size=1, or on a GPU")
    return Check("memory", "ok", found)


def check_disk(folder: Path | str, free: int, *, writable: bool) -> Check:
    """Check the disk of the results.

    Args:
        folder: Where results go.
        free: Bytes.
        writable: Whether the folder can be written.
    """
    if not writable:
        mend = "choose another folder with --output"
        return Check("disk", "problem", f"{folder} cannot be written", mend)
    cases, brats = free // CACHED_CASE_BYTES, float(CACHED_CASE_BYTES * TRAINING_CASES)
    needs = {name: DEMO_DISK_BYTES if name == "demo" else brats for name in TRAINING_GIB["cpu"]}
    found = f"{free / GIB:.0f} GiB free for {folder}: {fitting(free, needs)}"
    mend = f"delete what is largest: du -sh {folder}/* | sort -h"
    if free < 2 * GIB:
        return Check("disk", "problem", found, mend)
    if cases < TRAINING_CASES:
        room = f"{found}: BraTS 2021 has {TRAINING_CASES} cases, and there is room for {cases}"
        return Check("disk", "note", room, mend)
    return Check("disk", "ok", found)


def check_shared_memory(total: int) -> Check:
    """Check /dev/shm, where Ray keeps its objects and the loader's workers hand over patches.

    Args:
        total: Its bytes.
    """
    found = f"/dev/shm of {total / GIB:.1f} GiB"
    mend = "docker run --shm-size=8g ..., or: sudo mount -o remount,size=8G /dev/shm"
    if total < GIB / 2:
        found = f"{found}: threads may read the patches in place of processes, which is slower"
        return Check("shared memory", "note", found, mend)
    if total < 2 * GIB:
        return Check("shared memory", "note", f"{found}: Ray falls back to the disk", mend)
    return Check("shared memory", "ok", found)


def check_package(name: str, version: str | None, error: str | None) -> Check:
    """Check one of the packages that studies and the phantom need.

    Args:
        name: ray, mlflow or nilearn.
        version: Its version; None where it is not installed.
        error: The first line of what its import raised, or None.
    """
    if version is None:
        needed = "the phantom needs it" if name == "nilearn" else "studies need it"
        return Check(name, "note", f"not installed; {needed}", "pip install -e '.[studies]'")
    if error:
        found = f"{version} is installed but cannot be imported: {error}"
        return Check(name, "problem", found, f"pip install --force-reinstall {name}")
    return Check(name, "ok", version)
