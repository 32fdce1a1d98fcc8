"""Checkpoints: plain tensors, numbers and strings, written whole or not at all, loaded without running code.

A file is torch's zip archive with a digest of all its bytes in the archive's comment: `torch.load(path, weights_only=True)` reads
it in one line, and `load_checkpoint` notices a single flipped bit, which torch does not.
"""

import hashlib
import os
import struct
from pathlib import Path

import torch

from segmamba.errors import UserError
from segmamba.files import replacing
from segmamba.models.weights import DIGEST_MARK, digest_of, load_checkpoint

__all__ = ["load_checkpoint", "resume_state", "save_checkpoint", "weights_digest"]

NEEDED = {"model", "trained", "epoch", "best", "best_epoch", "random"}
"""What a checkpoint holds from which a run goes on."""


def save_checkpoint(state, path, *, previous=None):
    """Write `state` under a temporary name, flush it to the disk, then rename: `path` is always the old or the new file.

    previous: where the old file goes. Raises OSError where the disk is full; the old file is then still there.
    """
    path = Path(path)
    with replacing(path) as file:
        archive = _Hashed(file)
        try:
            torch.save(state, archive)
        except Exception:
            if archive.error:
                raise archive.error from None  # torch tells of a failed write, not why it failed
            raise
        comment = DIGEST_MARK + archive.sha256.hexdigest().encode()
        file.seek(-2, os.SEEK_END)
        file.write(
            struct.pack("<H", len(comment)) + comment
        )  # a zip archive ends with its comment and, before it, the comment's length
        if previous and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, previous)  # killed here, the run goes on from `previous`


def resume_state(candidates, device):
    """(the first of the checkpoints that is good, or None; a line on each before it that is not). Missing ones are passed over."""
    damaged = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path, device)
            if digest_of(path) is None or not (isinstance(state, dict) and state.keys() >= NEEDED):
                raise UserError(f"{path}: no checkpoint that this program resumes from")
            return state, damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def weights_digest(weights):
    """Of a state dict: names, types, shapes and values, whatever file or device they are on."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return sha256.hexdigest()


class _Hashed:
    """What torch.save writes to: passes bytes on and hashes them."""

    def __init__(self, file):
        self.file, self.sha256, self.error = file, hashlib.sha256(), None

    def write(self, data):
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return len(data)

    def flush(self):
        self.file.flush()
