"""How large a grid may become before its memory is asked for."""

import math
from collections.abc import Sequence

from segmamba.config.header import HeaderRules
from segmamba.errors import UserError

MIB = 2**20


def check_working_shape(
    shape: Sequence[int],
    source_spacing_mm: Sequence[float],
    spacing_mm: float,
    max_volume_mib: int = HeaderRules.max_volume_mib,
) -> None:
    """Refuse a grid that no head needs, before its memory is asked for.

    Args:
        shape: Voxels of the source along x, y and z.
        source_spacing_mm: Sides of its voxels.
        spacing_mm: Isotropic voxel size of the working grid.
        max_volume_mib: The largest channel, in MiB of float32; 512 is 512 voxels along each axis.

    Raises:
        UserError: The grid has no voxel along an axis, or is above the bound and above the
            source.
    """
    sides = [n * mm / spacing_mm for n, mm in zip(shape, source_spacing_mm, strict=True)]
    voxels = math.prod(max(round(side), 1) for side in sides)
    needed_mib = voxels * 4 / MIB
    if min(sides) > 0.5 and (needed_mib <= max_volume_mib or voxels <= math.prod(shape)):
        return
    size, spacing, grid = (
        " x ".join(f"{value:.4g}" for value in values)
        for values in (shape, source_spacing_mm, sides)
    )
    if min(sides) > 0.5:
        fault = f"{needed_mib:.0f} MiB a channel, above data.max_volume_mib = {max_volume_mib}"
        fix = (
            "choose a larger data.spacing_mm or, with that much memory, --set "
            f"data.max_volume_mib={math.ceil(needed_mib)}"
        )
    else:
        fault, fix = "which is no head", "choose a smaller data.spacing_mm"
    raise UserError(
        f"{size} voxels of {spacing} mm are {grid} voxels of {spacing_mm:g} mm, {fault}; correct "
        f"the header's voxel size (its units must be mm), or {fix}"
    )
