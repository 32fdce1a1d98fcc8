"""Checkpoints from files.

`load_checkpoint` reads what training wrote: plain tensors, numbers and strings, without running
code, and only after a look at how much memory they take. A checkpoint carries a SHA-256 digest in
the comment of its zip archive, which is compared. `load_network` finds the weights of a network in
a checkpoint of this or another program.
"""

import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmamba.errors import UserError
from segmamba.models.archive import check_archive, is_safetensors
from segmamba.models.state_dicts import NetworkState, network_state

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
    zipfile.BadZipFile,
    NotImplementedError,
    ArithmeticError,
    MemoryError,
    RecursionError,
)
"""What torch's reader raises on bytes that it did not write."""
DIGEST_MARK = b"segmamba sha256 "
"""In front of the digest in the comment of a checkpoint's zip archive."""
DIGEST_BYTES = len(DIGEST_MARK) + 64
ZIP_END, END_BYTES = b"PK\5\6", 22
"""How the last record of a zip archive begins, and its length without the comment."""
SCALAR: Any = np.float64(0).__reduce__()[0]
"""The function that makes a scalar of numpy from a pickle."""
SAFE_NUMBERS: list[Any] = [
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]
"""Numbers of numpy, which nnU-Net keeps beside its weights."""
BLOCK = 2**22
"""Bytes that are read at once."""


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    A file without a digest, which another program wrote, is as good as torch's reader finds it.

    Args:
        path: A file of `torch.save`.
        device: Where its tensors are put.

    Returns:
        What the file holds: names and tensors, or all that a training run needs to go on.

    Raises:
        UserError: The file is missing, truncated, foreign, or differs from its digest.
    """
    try:
        digest = digest_of(path)
        if digest and digest != _computed_digest(path):
            raise ValueError("its digest is another")
        if is_safetensors(path):
            return _read_safetensors(path, device)
        check_archive(path)
        with torch.serialization.safe_globals(SAFE_NUMBERS):
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder, no checkpoint; name the file in it") from error
    except DAMAGED as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: damaged or not a checkpoint of this program ({reason})"
        ) from error


def load_network(path: str | Path, device: str | torch.device = "cpu") -> NetworkState:
    """Read the weights of a network, whatever a program wrapped them in.

    Args:
        path: As `load_checkpoint` takes it; or safetensors, where that package is installed.
        device: Where the tensors are put.

    Returns:
        The tensors, and lines on what was stripped and converted.

    Raises:
        UserError: As `load_checkpoint` and `network_state` raise it.
    """
    return network_state(load_checkpoint(path, device), path)


def _read_safetensors(path: str | Path, device: str | torch.device) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path}: is a safetensors file, and that package is not installed; "
            "pip install safetensors, or torch.save its tensors"
        ) from error
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def digest_of(path: str | Path) -> str | None:
    """The digest that a checkpoint says it has.

    Args:
        path: A file of `torch.save`, which is a zip archive.

    Returns:
        64 hexadecimal digits, or None where the file holds no digest.

    Raises:
        ValueError: The file's end is missing, which torch's reader may overlook.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES - DIGEST_BYTES))
        tail = file.read()
    record = tail.rfind(ZIP_END)
    if record < 0:
        return None
    comment = tail[record + END_BYTES :]
    comment_length = tail[record + END_BYTES - 2 : record + END_BYTES]
    if len(comment) != int.from_bytes(comment_length, "little"):
        raise ValueError("its end is missing")
    if not comment.startswith(DIGEST_MARK):
        return None
    return comment.removeprefix(DIGEST_MARK).decode("ascii", "replace")


def _computed_digest(path: str | Path) -> str:
    """The digest of the archive as torch wrote it: without a comment, whose length is 0."""
    left, sha256 = Path(path).stat().st_size - DIGEST_BYTES - 2, hashlib.sha256()
    with Path(path).open("rb") as file:
        while left > 0:
            block = file.read(min(BLOCK, left))
            sha256.update(block)
            left -= len(block)
    sha256.update(struct.pack("<H", 0))
    return sha256.hexdigest()
