"""The space of the phantom: the head box, its voxels, and random fields drawn in mm.

Axes are those of BraTS files: voxel x to the patient's left, y posterior, z superior (LPS). Lengths
are in mm from the middle of the head box.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

HEAD_BOX_MM = (192.0, 192.0, 144.0)  # holds every deformed brain; 64x64x48 voxels of 3 mm
# Variance of `smooth_field` per axis before it is normalised: the sum of the four squared weights,
# averaged over the position between two knots.
SPLINE_VARIANCE = 0.479


@dataclass(frozen=True)
class Grid:
    """The voxels of the head box."""

    shape: tuple[int, ...]
    """(x, y, z)."""
    spacing_mm: float
    """Isotropic voxel size."""

    def axis_mm(self, axis: int) -> np.ndarray:
        """Voxel centres along an axis in mm, float32, shaped to broadcast over the grid."""
        n = self.shape[axis]
        centres = (np.arange(n, dtype=np.float32) - (n - 1) / 2) * self.spacing_mm
        return centres.reshape(_along(axis))

    def offset_mm(self, centre_mm: tuple[float, ...]) -> list[np.ndarray]:
        """Signed distance from a point along x, y and z.

        Args:
            centre_mm: The point, in mm from the middle of the head box.

        Returns:
            Three float32 arrays that broadcast over the grid, in mm.
        """
        return [self.axis_mm(axis) - np.float32(centre_mm[axis]) for axis in range(3)]

    def blurred(self, array: np.ndarray, sd_mm: float) -> np.ndarray:
        """An array of the grid's shape, convolved with a Gaussian of standard deviation `sd_mm`."""
        return ndimage.gaussian_filter(array, sd_mm / self.spacing_mm, truncate=2)


def _along(axis: int) -> tuple[int, ...]:
    return tuple(-1 if a == axis else 1 for a in range(3))


def smooth_field(rng: np.random.Generator, grid: Grid, feature_mm: float) -> np.ndarray:
    """A random field of zero mean and unit variance.

    The field is a cubic B-spline with normal coefficients, two knots to a bump. It costs four
    multiply-adds per axis, and no draw depends on the voxel size.

    Args:
        rng: Draws the coefficients.
        grid: Where the field is evaluated.
        feature_mm: Size of a bump.

    Returns:
        float32 of the grid's shape.
    """
    step_mm = feature_mm / 2
    knots = [math.ceil(mm / step_mm) + 4 for mm in HEAD_BOX_MM]
    field = rng.standard_normal(knots).astype(np.float32)
    for axis in range(3):
        place = (grid.axis_mm(axis).ravel() + HEAD_BOX_MM[axis] / 2) / step_mm
        knot = np.floor(place).astype(int)
        t = (place - knot).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        field = sum(
            np.take(field, knot + i, axis) * w.reshape(_along(axis)) for i, w in enumerate(weights)
        )
    return field * np.float32(SPLINE_VARIANCE**-1.5)


def soft_step(value: np.ndarray, width: float) -> np.ndarray:
    """A logistic step.

    Args:
        value: Any shape.
        width: Over which the step rises, in the unit of `value`.

    Returns:
        0 where `value` is well below 0 and 1 where it is well above, of the same shape.
    """
    return 1 / (1 + np.exp(-np.clip(4 * value / width, -30, 30)))
