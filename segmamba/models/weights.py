"""Reading what training wrote: plain tensors, numbers and strings, without running code."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import torch

from segmamba.errors import UserError

# What torch's reader raises on bytes that it did not write.
DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    pickle.UnpicklingError,
    struct.error,
)


DIGEST_MARK = b"segmamba sha256 "
"""In front of the digest in the comment of a checkpoint's zip archive."""
DIGEST_BYTES = len(DIGEST_MARK) + 64
ZIP_END, END_BYTES = b"PK\5\6", 22
"""How the last record of a zip archive begins, and its length without the comment."""
BLOCK = 2**22
HEADS = ("head.", "deep_heads.")
"""How the names of a network's output layers begin."""


def load_checkpoint(path, device="cpu"):
    """The state at `path`. UserError for a missing, truncated or foreign file, and for one that its digest belies.

    A file without a digest, which another program wrote, is as good as torch's reader finds it.
    """
    try:
        told = digest_of(path)
        if told and told != _computed_digest(path):
            raise ValueError("its digest is another")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: damaged or not a checkpoint of this program ({reason})"
        ) from error


def digest_of(path):
    """The digest that a checkpoint says it has, or None. ValueError where its end is missing, which torch's reader may overlook."""
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES - DIGEST_BYTES))
        tail = file.read()
    record = tail.rfind(ZIP_END)
    comment = tail[record + END_BYTES :]
    if record >= 0 and len(comment) != int.from_bytes(
        tail[record + END_BYTES - 2 : record + END_BYTES], "little"
    ):
        raise ValueError("its end is missing")
    return (
        comment.removeprefix(DIGEST_MARK).decode("ascii", "replace")
        if record >= 0 and comment.startswith(DIGEST_MARK)
        else None
    )


def _computed_digest(path):
    """Over the archive as torch wrote it: without a comment, whose length is 0."""
    left, sha256 = Path(path).stat().st_size - DIGEST_BYTES - 2, hashlib.sha256()
    with Path(path).open("rb") as file:
        while left > 0:
            block = file.read(min(BLOCK, left))
            sha256.update(block)
            left -= len(block)
    sha256.update(struct.pack("<H", 0))
    return sha256.hexdigest()


def start_from(model, state, source):
    """Load the tensors of `state` into `model`. Its heads are taken where they fit, so that other outputs may be learnt; all else must fit.

    UserError that names `source` and the first tensor that does not.
    """
    wanted = model.state_dict()
    fits = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted and wanted[name].shape == tensor.shape
    }
    misfits = sorted(
        name
        for name in wanted.keys() | state.keys()
        if name not in fits and not name.startswith(HEADS)
    )
    if misfits:
        name = misfits[0]
        have, want = (tuple(s[name].shape) if name in s else "absent" for s in (state, wanted))
        raise UserError(
            f"{source}: not weights of this network: {name} is {have} there and {want} here, and {len(misfits) - 1} more tensors differ; "
            "choose the settings of `model` that they were trained with"
        )
    model.load_state_dict(fits, strict=False)


def without_heads(state):
    """What of a network's state another task can start from."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}
