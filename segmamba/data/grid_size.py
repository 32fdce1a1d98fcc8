"""How large a grid may become before its memory is asked for."""

import math
from collections.abc import Sequence

from segmamba.errors import UserError

LARGEST_VOXELS = 2**27
"""Of a working grid: 512 along each axis, 2 GiB for four images."""


def check_working_shape(
    shape: Sequence[int], source_spacing_mm: Sequence[float], spacing_mm: float
) -> None:
    """Refuse a grid that no head needs, before its memory is asked for.

    Args:
        shape: Voxels of the source along x, y and z.
        source_spacing_mm: Sides of its voxels.
        spacing_mm: Isotropic voxel size of the working grid.

    Raises:
        UserError: The grid has no voxel along an axis, or more than `LARGEST_VOXELS` in all.
    """
    sides = [n * mm / spacing_mm for n, mm in zip(shape, source_spacing_mm, strict=True)]
    voxels = math.prod(max(round(side), 1) for side in sides)
    if min(sides) > 0.5 and (voxels <= LARGEST_VOXELS or voxels <= math.prod(shape)):
        return
    size, spacing, grid = (
        " x ".join(f"{value:.4g}" for value in values)
        for values in (shape, source_spacing_mm, sides)
    )
    raise UserError(
        f"{size} voxels of {spacing} mm are {grid} voxels of {spacing_mm:g} mm, which is no head; "
        "correct the header's voxel size (its units must be mm), or choose another "
        "data.spacing_mm"
    )
