"""Which device runs, and in which precision."""

import contextlib

import torch

from segmamba.errors import UserError


def choose_device(name="auto"):
    """torch.device for "auto" (the first GPU where there is one), "cpu", "cuda" or "cuda:1"."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {name}: torch {torch.__version__} sees no CUDA device; use --device cpu or install a CUDA build of torch")
    return torch.device(name)


def mixed_dtype(device, precision):
    """The autocast type of `train.precision` on this device, or None for plain fp32 (always so on a CPU)."""
    if precision == "fp32" or device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(device, dtype):
    """A context manager: autocast to `dtype`, or nothing where it is None."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
