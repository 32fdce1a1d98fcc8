"""What a reader of one image file gives, whatever the file's format."""

from dataclasses import dataclass

import numpy as np

from segmamba.data.case import Finding
from segmamba.errors import UserError


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
