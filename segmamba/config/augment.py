"""What is done to a patch before the network sees it."""

import dataclasses
from dataclasses import dataclass

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training patches. Ranges from `rotation_degrees` on are nnU-Net's."""

    flip_probability: float = 0.5
    """Chance of a mirror image, for each axis on its own; 0 is off."""
    rotate90_probability: float = 0.5
    """Chance of a turn by 90, 180 or 270 degrees in the axial (x-y) plane; 0 is off."""
    scale_range: tuple[float, float] = (0.9, 1.1)
    """Zoom factor, uniform, of every patch; (1, 1) is off."""
    brightness: float = 0.1
    """Largest offset, in standard deviations of the z-scored channel, uniform in +-; 0 is off."""
    contrast_range: tuple[float, float] = (0.9, 1.1)
    """Factor on the intensities, uniform, per channel; (1, 1) is off."""
    rotation_probability: float = 0.0
    """Chance of a turn by any angle; 0 is off. nnU-Net's chance is 0.2. This augmentation and those
    that follow are off by default; their ranges are nnU-Net's."""
    rotation_degrees: float = 30.0
    """Largest angle, in degrees, about each of the three axes, uniform in +-."""
    elastic_probability: float = 0.0
    """Chance of an elastic deformation; 0 is off, as in nnU-Net."""
    elastic_range: tuple[float, float] = (1.0, 4.0)
    """Standard deviation, in voxels, of the displacement at the control points, uniform. Above
    0.13 x `elastic_spacing_voxels` the tissue starts to fold."""
    elastic_spacing_voxels: float = 32.0
    """Distance, in voxels, between the control points of the cubic B-spline that interpolates the
    displacement."""
    noise_probability: float = 0.0
    """Chance of Gaussian noise, for each channel on its own; 0 is off. nnU-Net: 0.1 a patch."""
    noise_range: tuple[float, float] = (0.0, 0.1)
    """Standard deviation of the noise, in standard deviations of the z-scored channel, uniform."""
    blur_probability: float = 0.0
    """Chance of a Gaussian blur, for each channel on its own; 0 is off. nnU-Net: 0.2 a patch, then
    0.5 a channel."""
    blur_range: tuple[float, float] = (0.5, 1.0)
    """Standard deviation of the blur, in voxels, uniform."""
    low_resolution_probability: float = 0.0
    """Chance of a simulated low resolution, for each channel on its own; 0 is off. nnU-Net: 0.25 a
    patch, then 0.5 a channel."""
    low_resolution_range: tuple[float, float] = (0.5, 1.0)
    """Share of the voxels along each axis that is kept, uniform."""
    gamma_probability: float = 0.0
    """Chance of a gamma correction, for each channel on its own; 0 is off. nnU-Net: 0.3 a patch."""
    gamma_range: tuple[float, float] = (0.7, 1.5)
    """Exponent on the channel's own range, log-uniform; mean and standard deviation are kept."""
    modality_dropout: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Chance that a patch is shown without T1, T1ce, T2 and FLAIR, each on its own: the channel is
    0, as where the modality is missing. Never all four: where the draws would take them all, the
    one stays whose draw came nearest to keeping it. 0 is off."""

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        require_each(
            self,
            "augment",
            [name for name in names if name.endswith("_probability")],
            lambda chance: 0 <= chance <= 1,
            "must lie in [0, 1]",
        )
        require(
            all(0 <= chance <= 1 for chance in self.modality_dropout),
            "augment.modality_dropout",
            self.modality_dropout,
            "each chance must lie in [0, 1]",
        )
        require_each(
            self,
            "augment",
            ("scale_range", "contrast_range", "blur_range", "low_resolution_range", "gamma_range"),
            lambda bounds: 0 < bounds[0] <= bounds[1],
            "must be (low, high) with 0 < low <= high",
        )
        require_each(
            self,
            "augment",
            ("elastic_range", "noise_range"),
            lambda bounds: 0 <= bounds[0] <= bounds[1],
            "must be (low, high) with 0 <= low <= high",
        )
        require(
            self.low_resolution_range[1] <= 1,
            "augment.low_resolution_range",
            self.low_resolution_range,
            "must not exceed 1 (no loss)",
        )
        require(
            self.brightness >= 0, "augment.brightness", self.brightness, "must be 0 (off) or more"
        )
        require(
            0 <= self.rotation_degrees <= 180,
            "augment.rotation_degrees",
            self.rotation_degrees,
            "must lie in [0, 180]",
        )
        require(
            self.elastic_spacing_voxels >= 2,
            "augment.elastic_spacing_voxels",
            self.elastic_spacing_voxels,
            "must be 2 voxels or more",
        )
