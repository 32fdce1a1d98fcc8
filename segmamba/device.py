"""Which device runs, and in which precision."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch

from segmamba.errors import UserError


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device that a name stands for.

    A GPU that is named by its number becomes the process's current one: Triton launches its kernels
    there, wherever their tensors lie.

    Args:
        name: auto (the first GPU where there is one, else the CPU), cpu, cuda or cuda:1.

    Returns:
        The device, which exists.

    Raises:
        UserError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: no such device; choose auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch {torch.__version__} sees no CUDA device; "
            "use --device cpu or install a CUDA build of torch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0; "
            "choose one of them"
        )
    if device.index is not None and device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_kind(device: torch.device) -> str:
    """Name the kind of a device: that of the GPU, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def mixed_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """Choose the autocast type of a device.

    Args:
        device: Where the network runs.
        precision: `train.precision`, "mixed" or "fp32".

    Returns:
        bfloat16, or float16 on a GPU that does not have it; None for plain fp32, which a CPU
        always computes in.
    """
    if precision == "fp32" or device.type != "cuda":
        return None
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Compute a block in mixed precision, or as it is where `dtype` is None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
