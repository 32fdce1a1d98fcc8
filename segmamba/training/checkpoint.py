"""Checkpoints: plain tensors, numbers and strings, written whole or not at all, loaded without running code."""

import os
from pathlib import Path

import torch

from segmamba.models.weights import load_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(state, path):
    """Write `state` under a temporary name, flush it to the disk, then rename: `path` is always the old or the new file."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
