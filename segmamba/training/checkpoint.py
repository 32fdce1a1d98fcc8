"""Checkpoints: plain tensors, numbers and strings, written whole or not at all, loaded without running code."""

from pathlib import Path

import torch

from segmamba.files import replacing
from segmamba.models.weights import load_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(state, path):
    """Write `state` under a temporary name, flush it to the disk, then rename: `path` is always the old or the new file."""
    with replacing(Path(path)) as file:
        torch.save(state, file)
