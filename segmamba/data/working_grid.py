"""From a scan to what the network sees: z-scored, on the working grid, cut to brain and tumour.

Three grids: that of the source, in canonical orientation; the working grid, the source's extent at
`spacing_mm`; and the box around brain and tumour, cut out of the working grid at `offset`. All that
is cut away is 0.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from segmamba.data.background import bounding_box
from segmamba.data.grid_size import check_working_shape
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
        UserError: The working grid is too large, or nothing of the brain is left on it.
    """
    check_working_shape(scan.image.shape[1:], scan.spacing_mm, spacing_mm, scan.max_volume_mib)
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


def brain_box(image: np.ndarray, label: np.ndarray | None) -> tuple[slice, ...]:
    """The smallest box that holds the brain and the tumour.

    Args:
        image: (4, x, y, z), 0 outside the brain.
        label: (x, y, z), or None. Real labels reach a few voxels beyond the brain.

    Returns:
        Slices along x, y and z.

    Raises:
        UserError: There is neither brain nor tumour.
    """
    inside: np.ndarray = np.any(image, axis=0)
    if label is not None:
        inside |= label > 0
    if not inside.any():
        raise UserError(
            "no voxel of the brain is left on the working grid; correct the header's voxel size, "
            "or choose a smaller data.spacing_mm"
        )
    return bounding_box(inside)


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
        if not brain.any():  # a missing modality
            continue
        values = source[brain].astype(np.float64)
        target[brain] = (values - values.mean()) / max(values.std(), 1e-8)
    return out


def background_levels(image: np.ndarray) -> np.ndarray:
    """Return where the background of each channel lies on the scale of its brain's z-scores.

    Args:
        image: (4, x, y, z), 0 outside the brain.

    Returns:
        float32 (4,): what `zscore` would make of 0; 0 for a missing modality.
    """
    levels = np.zeros(len(image), np.float32)
    for number, channel in enumerate(image):
        if (values := channel[channel != 0].astype(np.float64)).size:
            levels[number] = -values.mean() / max(values.std(), 1e-8)
    return levels


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
