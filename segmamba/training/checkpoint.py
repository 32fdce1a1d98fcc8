"""Checkpoints: plain tensors, numbers and strings, written whole or not at all, loaded without running code."""

import os
import pickle
from pathlib import Path

import torch

from segmamba.errors import UserError


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


def load_checkpoint(path, device="cpu"):
    """The state at `path`. UserError for a missing, truncated or foreign file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: damaged or not a checkpoint of this program ({reason})") from error
