"""The random numbers of one patch's augmentation."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AugmentationDraws:
    """The random numbers that say what happens to one patch.

    Everything is drawn, used or not: switching one transform off leaves the others' draws alone.
    Arrays are (C,), a value per channel.
    """

    flips: tuple[bool, ...]
    """Along x, y and z."""
    quarter_turns: int
    """In the axial plane, 0 to 3."""
    scale: float
    """Zoom factor; 1 is none."""
    brightness: np.ndarray
    """Offset; 0 is none."""
    contrast: np.ndarray
    """Factor; 1 is none."""
    rotation_degrees: tuple[float, ...]
    """About x, y and z; zeros are none."""
    elastic_voxels: float
    """Standard deviation of the displacement at the control points; 0 is none."""
    elastic_spacing: float
    """Voxels between two control points."""
    field_seed: int
    """Seed of the displacements."""
    noise_std: np.ndarray
    """Standard deviation of the noise; 0 is none."""
    noise_seed: int
    """Seed of the noise."""
    blur_sigma: np.ndarray
    """Voxels; 0 is none."""
    zoom: np.ndarray
    """Share of the sides that low resolution keeps; 1 is none."""
    gamma: np.ndarray
    """Exponent; 1 is none."""
    dropped: np.ndarray
    """bool, whether the modality is shown as missing."""
