"""Which device runs, and in which precision."""

import contextlib

import torch

from segmamba.errors import UserError


def choose_device(name="auto"):
    """torch.device for "auto" (the first GPU where there is one), "cpu", "cuda" or "cuda:1"."""
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
            f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu or install a CUDA build of torch"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0; choose one of them"
        )
    return device


def mixed_dtype(device, precision):
    """The autocast type of `train.precision` on this device, or None for plain fp32 (always so on a CPU)."""
    if precision == "fp32" or device.type != "cuda":
        return None
    return (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def autocast(device, dtype):
    """A context manager: autocast to `dtype`, or nothing where it is None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
