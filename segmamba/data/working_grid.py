"""From a scan to what the network sees: z-scored, on the working grid, cut to brain and tumour.

Three grids: that of the source, in canonical orientation; the working grid, the source's extent at
`spacing_mm`; and the box around brain and tumour, cut out of the working grid at `offset`. All that
is cut away is 0.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.volumes import Scan
from segmamba.errors import UserError

SAME_SPACING_MM = 1e-3


class BoxGeometry(TypedDict):
    """Where the box lies; the fields are those of a `PreparedCase`."""

    working_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    source_spacing_mm: tuple[float, ...]
    source_affine: tuple[tuple[float, ...], ...]


def to_working_grid(
    scan: Scan, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray | None, BoxGeometry]:
    """Z-score a scan, resample it where need be, and cut it to brain and tumour.

    Args:
        scan: The scan.
        spacing_mm: Isotropic voxel size of the working grid.

    Returns:
        (image, label, geometry). image: float16 (4, x, y, z). label: uint8 (x, y, z), or None
        without a segmentation. geometry: where the box lies.

    Raises:
        UserError: The working grid is too large or has no voxel along an axis, or nothing is left
            of the images.
    """
    if fault := grid_fault(scan.image.shape[1:], scan.spacing_mm, spacing_mm, scan.max_volume_mib):
        raise UserError(fault)
    image, label = zscore(scan.image), scan.label
    if must_resample(scan, spacing_mm):
        zoom = [s / spacing_mm for s in scan.spacing_mm]
        image = np.stack([resample(channel, zoom, order=1) for channel in image])
        label = None if label is None else resample(label, zoom, order=0)
    box = brain_box(image, label)
    geometry: BoxGeometry = {
        "working_shape": image.shape[1:],
        "offset": tuple(side.start for side in box),
        "shape": tuple(side.stop - side.start for side in box),
        "source_shape": scan.image.shape[1:],
        "source_spacing_mm": scan.spacing_mm,
        "source_affine": tuple(map(tuple, scan.affine.tolist())),
    }
    all_channels = (slice(None), *box)
    return (
        image[all_channels].astype(np.float16),
        None if label is None else np.ascontiguousarray(label[box]),
        geometry,
    )


def must_resample(scan: Scan, spacing_mm: float) -> bool:
    """Whether a scan has another voxel size than the working grid.

    Args:
        scan: The scan.
        spacing_mm: Isotropic voxel size of the working grid.

    Returns:
        True where some axis differs by more than `SAME_SPACING_MM`.
    """
    return any(abs(s - spacing_mm) > SAME_SPACING_MM for s in scan.spacing_mm)


def grid_fault(
    shape: Sequence[int],
    source_spacing_mm: Sequence[float],
    spacing_mm: float,
    max_volume_mib: int = HeaderRules.max_volume_mib,
) -> str:
    """Say why a volume cannot be brought to a working grid, before memory is asked for.

    Args:
        shape: Voxels of the source along x, y and z.
        source_spacing_mm: Their sizes.
        spacing_mm: Isotropic voxel size of the working grid.
        max_volume_mib: The largest channel, in MiB of float32.

    Returns:
        The fault with its fix, or nothing.
    """
    sides = [round(n * s / spacing_mm) for n, s in zip(shape, source_spacing_mm, strict=True)]
    grid = f"{'x'.join(map(str, sides))} voxels of data.spacing_mm = {spacing_mm:g} mm"
    if min(sides) < 1:
        return f"it would have {grid}; choose a smaller data.spacing_mm or leave the case out"
    needed_mib = math.prod(sides) * 4 / 2**20
    if needed_mib > max_volume_mib:
        return (
            f"it would have {grid}, {needed_mib:.0f} MiB a channel, above data.max_volume_mib = "
            f"{max_volume_mib}; choose a larger data.spacing_mm or, with that much memory, --set "
            f"data.max_volume_mib={math.ceil(needed_mib)}"
        )
    return ""


def brain_box(image: np.ndarray, label: np.ndarray | None) -> tuple[slice, ...]:
    """The smallest box that holds the brain and the tumour.

    Args:
        image: (4, x, y, z), 0 outside the brain.
        label: (x, y, z), or None. Real labels reach a few voxels beyond the brain.

    Returns:
        Slices along x, y and z.
    """
    inside: np.ndarray = np.any(image, axis=0)
    if label is not None:
        inside |= label > 0
    return bounding_box(inside)


def bounding_box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all that is true.

    Args:
        inside: bool (x, y, z).

    Returns:
        Slices along x, y and z.

    Raises:
        UserError: Nothing is true.
    """
    filled = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not all(map(len, filled)):
        raise UserError(
            "its images hold no brain: every channel has one value alone; replace the files or "
            "remove the case"
        )
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)


def zscore(image: np.ndarray) -> np.ndarray:
    """Normalise each channel by mean and standard deviation of its non-zero voxels.

    Args:
        image: (4, x, y, z).

    Returns:
        float32 of the same shape; zeros stay 0.
    """
    out = np.zeros_like(image, np.float32)
    for source, target in zip(image, out, strict=True):
        brain = source != 0
        values = source[brain].astype(np.float64)
        target[brain] = (values - values.mean()) / max(values.std(), 1e-8)
    return out


def resample(array: np.ndarray, zoom: Sequence[float], *, order: int) -> np.ndarray:
    """Scale a volume so that its edges stay where they are.

    Args:
        array: (x, y, z).
        zoom: The factor along each axis.
        order: Of the spline: 1 is trilinear, 0 is nearest neighbour.

    Returns:
        The scaled volume.
    """
    from scipy.ndimage import zoom as scale

    return scale(array, zoom, order=order, mode="nearest", grid_mode=True)
