"""How a whole volume is predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import require


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Sliding window and test-time options.

    The validation set, which is predicted every few epochs, takes the overlap alone. Testing and
    `segmamba predict` take all options.
    """

    overlap: float = 0.5
    """Overlap of neighbouring windows, as a share of the patch (nnU-Net's 0.5)."""
    overlap_voxels: int = 0
    """Overlap in voxels, the same along every axis and for every patch, in place of `overlap`; 0 is
    off."""
    flips: bool = False
    """Average over the 8 mirror images along x, y and z; costs 8 times as much. False is off."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these resolutions, as factors on the working grid's; (1,) is off."""
    window_batch: int = 0
    """Windows in one forward pass. 0 chooses: 8 on a GPU, fewer where its memory is short, and 2 on
    a CPU."""
    normalise_over: Literal["brain", "box"] = "brain"
    """Which voxels' mean and standard deviation z-score an image. brain: those that are not 0,
    and the others stay 0; every network that is trained here. box: all of the smallest box around
    the brain, background included, for weights of others that were trained so."""

    def __post_init__(self) -> None:
        require(0 <= self.overlap < 1, "inference.overlap", self.overlap, "must lie in [0, 1)")
        require(
            self.overlap_voxels >= 0,
            "inference.overlap_voxels",
            self.overlap_voxels,
            "must be 0 (off) or more",
        )
        require(
            self.scales and all(0.25 <= s <= 4 for s in self.scales),
            "inference.scales",
            self.scales,
            "at least one factor, each in [0.25, 4]",
        )
        require(
            len(set(self.scales)) == len(self.scales),
            "inference.scales",
            self.scales,
            "every factor once",
        )
        require(
            self.window_batch >= 0,
            "inference.window_batch",
            self.window_batch,
            "must be 0 (chosen here) or more",
        )

    @property
    def summary(self) -> str:
        """The options in words, for a line on the screen."""
        mirrors = ", 8 mirror images" if self.flips else ""
        scales = (
            ""
            if self.scales == (1.0,)
            else f", scales {' '.join(f'{scale:g}' for scale in self.scales)}"
        )
        overlap = f"{self.overlap_voxels} voxels" if self.overlap_voxels else f"{self.overlap:g}"
        box = ", z-scored over the brain's box" if self.normalise_over == "box" else ""
        return f"overlap {overlap}{mirrors}{scales}{box}"

    def overlaps(self, window: Sequence[int]) -> tuple[float, float, float]:
        """Compute the overlap of neighbouring windows.

        Args:
            window: Voxels of a window along x, y, z.

        Returns:
            The overlap along each axis, as a share of the side.

        Raises:
            UserError: `overlap_voxels` is not below the shortest side.
        """
        if not self.overlap_voxels:
            return (self.overlap,) * 3
        require(
            self.overlap_voxels < min(window),
            "inference.overlap_voxels",
            self.overlap_voxels,
            f"must be below the patch's {min(window)} voxels",
        )
        x, y, z = (self.overlap_voxels / side for side in window)
        return x, y, z
