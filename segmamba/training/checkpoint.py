"""Writing checkpoints: plain tensors, numbers and strings, written whole or not at all.

A file is torch's zip archive with a digest of all its bytes in the archive's comment. One line,
`torch.load(path, weights_only=True)`, reads it, and `segmamba.models.weights.load_checkpoint`
notices a single flipped bit, which torch does not.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from segmamba.errors import UserError
from segmamba.files import replacing
from segmamba.models.weights import DIGEST_MARK, digest_of, load_checkpoint

NEEDED: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "trained": dict,
    "epoch": int,
    "best": (int, float),
    "best_epoch": int,
    "random": dict,
}
"""What a checkpoint must hold for a run to go on from it."""
PRETRAINING_NEEDED: dict[str, type | tuple[type, ...]] = {"model": dict, "epoch": int}
"""The same for a pretraining."""


def save_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, previous: Path | None = None
) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, then rename it.

    `path` is always the old file or the new one, whole.

    Args:
        state: Plain tensors, numbers and strings.
        path: The file to write.
        previous: Where the old file goes; None replaces it.

    Raises:
        OSError: The disk is full, for example; the old file is then still there.
    """
    path = Path(path)
    with replacing(path) as file:
        archive = _Hashed(file)
        try:
            torch.save(state, archive)  # type: ignore[arg-type]  # it calls write and flush alone
        except Exception:
            if archive.error:
                raise archive.error from None  # torch reports that a write failed, not why
            raise
        comment = DIGEST_MARK + archive.sha256.hexdigest().encode()
        # A zip archive ends with its comment and, before it, the comment's length.
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<H", len(comment)) + comment)
        if previous and path.exists():
            file.flush()
            os.fsync(file.fileno())
            os.replace(path, previous)  # killed here, the run goes on from `previous`


def resume_state(
    candidates: Iterable[Path], device: torch.device | str
) -> tuple[dict[str, Any] | None, list[str]]:
    """Load the first checkpoint that a run can go on from.

    Args:
        candidates: Paths in the order of preference. Missing files are passed over.
        device: Where the tensors go.

    Returns:
        The state, or None where no candidate is good; and a line on each damaged candidate
        before it.
    """
    damaged: list[str] = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            state = load_checkpoint(path, device)
            check_resumable(state, path, NEEDED)
            return state, damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def check_resumable(state: Any, path: Path, needed: Mapping[str, type | tuple[type, ...]]) -> None:
    """Refuse a checkpoint that lacks what a training goes on from.

    Args:
        state: Its content.
        path: The file, for the message.
        needed: The names that it must hold, and the types of their values.

    Raises:
        UserError: It names what is missing or of another type.
    """
    wrong = [name for name in needed if name not in state] if isinstance(state, dict) else ["all"]
    wrong += [name for name in needed if not wrong and not isinstance(state[name], needed[name])]
    if digest_of(path) is None or wrong:
        reason = f"{wrong[0]} is missing or wrong" if wrong else "another program wrote it"
        raise UserError(f"{path}: no checkpoint that this program resumes from ({reason})")


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a state dict: of its names, types, shapes and values.

    It is the same whatever file or device the tensors are on.
    """
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return sha256.hexdigest()


class _Hashed:
    """The file that torch.save writes to: passes bytes on and hashes them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()
