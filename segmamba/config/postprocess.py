"""What is done to a predicted volume.

A run's own values, chosen on the validation set, are in postprocessing.json beside its checkpoint.
"""

import dataclasses
import json
from dataclasses import dataclass

from segmamba.config.rules import require, require_each

FILE_NAME = "postprocessing.json"


@dataclass(frozen=True, kw_only=True)
class PostprocessConfig:
    """Post-processing steps, all off by default.

    They are applied in this order: CRF, thresholds, small components, small ET. Tuples are in the
    order ET, TC, WT and then, where `model.classes` has more regions, those: RC after treatment;
    NETC, CC and ED in children, of which CC alone is decided by itself.
    """

    crf_steps: int = 0
    """Mean-field steps of the conditional random field that moves boundaries to edges of the
    images; 0 is off."""
    crf_smoothness: float = 0.0
    """Weight of the kernel that knows positions alone; 0 is off, which measured best."""
    crf_appearance: float = 3.0
    """Weight of the kernel that knows positions and intensities; 0 is off."""
    crf_reach: float = 1.5
    """Standard deviation, in voxels, of both kernels in space; they end at 2 voxels."""
    crf_contrast: float = 0.5
    """Difference in intensity, in standard deviations of the z-scored image, at which two voxels
    stop pulling at each other."""
    thresholds: tuple[float, ...] = ()
    """Probability above which a voxel belongs to ET, TC, WT and further regions; what is not given
    for these is 0.5. () is off: the likeliest class, or 0.5 for a network of regions."""
    min_component_voxels: tuple[int, ...] = (0, 0, 0)
    """Smallest 26-connected component of ET, TC, WT and further regions that stays, in voxels of
    the source; 0 is off, as is what is not given. `--postprocess paper` has 100 for ET, TC, WT."""
    min_et_voxels: int = 0
    """Smallest ET, in voxels of the source: a case whose whole ET has fewer gets it as the rest of
    TC, NCR or NETC (known from BraTS, where an absent ET is all or nothing); 0 is off."""

    def __post_init__(self) -> None:
        require(
            self.crf_steps >= 0, "postprocess.crf_steps", self.crf_steps, "must be 0 (off) or more"
        )
        require_each(
            self,
            "postprocess",
            ("crf_smoothness", "crf_appearance"),
            lambda weight: weight >= 0,
            "must be 0 (off) or more",
        )
        require_each(
            self,
            "postprocess",
            ("crf_reach", "crf_contrast"),
            lambda value: value > 0,
            "must be above 0",
        )
        require(
            len(self.thresholds) == 0 or len(self.thresholds) >= 3,
            "postprocess.thresholds",
            self.thresholds,
            "must be () (off) or at least three values, for ET, TC and WT",
        )
        require(
            all(0 < t < 1 for t in self.thresholds),
            "postprocess.thresholds",
            self.thresholds,
            "must lie in (0, 1)",
        )
        require(
            len(self.min_component_voxels) >= 3,
            "postprocess.min_component_voxels",
            self.min_component_voxels,
            "must be at least three values, for ET, TC and WT",
        )
        require(
            min(self.min_component_voxels) >= 0,
            "postprocess.min_component_voxels",
            self.min_component_voxels,
            "must be 0 (off) or more",
        )
        require(
            self.min_et_voxels >= 0,
            "postprocess.min_et_voxels",
            self.min_et_voxels,
            "must be 0 (off) or more",
        )

    @property
    def is_off(self) -> bool:
        """Whether no step is on."""
        return not (
            self.crf_steps
            or self.thresholds
            or any(self.min_component_voxels)
            or self.min_et_voxels
        )

    @property
    def summary(self) -> str:
        """The steps that are on, named as their settings."""
        steps = {
            "crf_steps": self.crf_steps,
            "thresholds": self.thresholds,
            "min_component_voxels": any(self.min_component_voxels),
            "min_et_voxels": self.min_et_voxels,
        }
        return (
            ", ".join(f"{name} {getattr(self, name)}" for name, on in steps.items() if on) or "off"
        )

    def to_json(self) -> str:
        """Write the settings as the content of a postprocessing.json."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"
