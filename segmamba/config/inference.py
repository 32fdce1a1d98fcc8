"""How a whole volume is predicted."""

from dataclasses import dataclass

from segmamba.config.rules import require


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    overlap: float = 0.5
    """Overlap of neighbouring windows, as a share of the patch (nnU-Net's 0.5)."""

    def __post_init__(self):
        require(0 <= self.overlap < 1, "inference.overlap", self.overlap, "must lie in [0, 1)")
