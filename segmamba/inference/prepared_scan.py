"""A scan as networks see it, and what they say about it.

Legend: K channels, (x, y, z) the source's grid in canonical orientation or, where it says box, the
part of it that holds the brain.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from segmamba.data.case import Finding
from segmamba.data.volumes import Scan
from segmamba.data.working_grid import to_working_grid
from segmamba.errors import UserError
from segmamba.inference.grids import Box, Grids, HasGrids, source_box, union


@dataclass(frozen=True)
class PreparedScan:
    """What the members of an ensemble see of one scan. It is made on the CPU, in any thread."""

    images: Mapping[float, np.ndarray]
    """{spacing in mm: float16 (4, x, y, z)}, z-scored and cut to the brain."""
    grids: Mapping[float, HasGrids]
    """{spacing in mm: Grids, or the PreparedCase that the image comes from}."""
    findings: tuple[Finding, ...] = ()
    """What is to say about its files."""
    background: np.ndarray | None = None
    """float32 (4,), the `background_levels` of the scan; None where no network asks for them."""
    box: Box = field(init=False)
    """Slices of the source's grid that hold all that is predicted; outside is background."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", union([source_box(grids) for grids in self.grids.values()]))

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Voxels of the source along x, y and z."""
        return next(iter(self.grids.values())).source_shape

    def whole(self, array: np.ndarray) -> np.ndarray:
        """Put an array (x, y, z) on the box into the source's grid, with zeros around it."""
        margins = [
            (side.start, full - side.stop)
            for side, full in zip(self.box, self.source_shape, strict=True)
        ]
        return np.pad(array, margins)


@dataclass(frozen=True)
class Analysis:
    """What the device has to say about one scan.

    Arrays lie on `prepared.box`. Maps that were not asked for are None.
    """

    prepared: PreparedScan
    classes: np.ndarray
    """uint8 (x, y, z), before small components are removed."""
    probability: np.ndarray | None = None
    """float32 (K, x, y, z)."""
    entropy: np.ndarray | None = None
    """float32 (x, y, z) in [0, 1]: see `segmamba.inference.uncertainty`."""
    disagreement: np.ndarray | None = None
    """float32 (x, y, z) in [0, 1], None for a single member."""


def prepare_scan(scan: Scan, spacings_mm: Iterable[float]) -> PreparedScan:
    """Prepare a scan for members that work at these spacings.

    Args:
        scan: The images of a case.
        spacings_mm: The sides of the working grids' voxels.

    Returns:
        The images z-scored, resampled and cut to the brain, once for each spacing.

    Raises:
        UserError: A working grid is too large, or nothing of the brain is left on it.
    """
    images, grids = {}, {}
    for spacing_mm in spacings_mm:
        images[spacing_mm], _, fields = to_working_grid(scan, spacing_mm)
        grids[spacing_mm] = Grids(**fields)
    return PreparedScan(images, grids, scan.findings)


def normalised_over_box(image: Tensor, background: np.ndarray | None) -> Tensor:
    """Z-score the channels of a box over all of its voxels, as `inference.normalise_over` = box.

    It is what a z-score of the box's own intensities gives, since the scores within the brain are
    these intensities on another scale.

    Args:
        image: float32 (4, x, y, z), z-scored within the brain, 0 outside.
        background: float32 (4,), the scan's `background_levels`.

    Returns:
        float32 (4, x, y, z), of mean 0 and standard deviation 1 for each channel.

    Raises:
        UserError: The image is one of the cache, which keeps no levels.
    """
    if background is None:
        raise UserError(
            "inference.normalise_over = box is for predictions from files, with weights that were "
            "trained so; what is trained and tested here is normalised over the brain"
        )
    levels = torch.from_numpy(background).to(image.device)[:, None, None, None]
    filled = torch.where(image != 0, image, levels)
    deviation, mean = torch.std_mean(filled, dim=(1, 2, 3), correction=0, keepdim=True)
    return (filled - mean) / deviation.clamp_min(1e-8)
