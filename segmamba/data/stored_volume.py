"""What a reader of one image file gives, whatever the file's format."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.case import Finding
from segmamba.errors import UserError

MIB = 2**20
BYTES_PER_VOXEL = 4  # of the float32 that a voxel becomes


class FileFault(UserError):
    """A file that cannot be read, or whose header contradicts itself.

    Args:
        message: Names the file, the fault and the fix.
        kind: Two words for a table.
    """

    def __init__(self, message: object, kind: str = "unreadable file") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class StoredVolume:
    """A file's voxels in the order in which they are stored, and where they lie."""

    array: np.ndarray
    """(x, y, z) or (x, y, z, channels) along the stored axes, scaled as the header says."""
    affine: np.ndarray
    """(4, 4), from stored voxels to mm in the directions right, anterior and superior."""
    located: bool = True
    """Whether the file says where it lies; without, the affine's origin means nothing."""
    remarks: tuple[Finding, ...] = ()
    """What the user should know; the texts begin with the file."""


def check_size(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, rules: HeaderRules, *, other_bytes: int = 0
) -> None:
    """Refuse a volume above the bound, before anything is inflated or allocated.

    Args:
        path: The file, for the message.
        shape: Voxels along each axis, channels included.
        dtype: The stored type.
        rules: Its `max_volume_mib` is the bound.
        other_bytes: What has to be read beside the voxels.

    Raises:
        FileFault: The volume is too large.
    """
    voxels = int(np.prod(shape, dtype=object))
    needed = voxels * max(dtype.itemsize, BYTES_PER_VOXEL) + other_bytes
    if needed > rules.max_volume_mib * MIB:
        raise FileFault(
            f"{path}: its header announces {times(shape)} voxels of {dtype.name}, "
            f"{needed / MIB:.0f} MiB in memory, above data.max_volume_mib = "
            f"{rules.max_volume_mib}; correct the header or, with that much memory, --set "
            f"data.max_volume_mib={-(-needed // MIB)}",
            "too large",
        )


def times(sides: tuple[int, ...] | list[int]) -> str:
    """Write a shape as "240x240x155"."""
    return "x".join(map(str, sides))
