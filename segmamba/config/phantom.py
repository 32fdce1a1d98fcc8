"""The embedded data."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import require


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """The embedded data, used when no data set is given."""

    cases: int = 24
    """How many cases are generated."""
    size: tuple[int, int, int] = (240, 240, 155)
    """Voxels along x, y, z; the voxel size follows so that the head fits."""
    kind: Literal["glioma", "post_treatment", "pediatric"] = "glioma"
    """What the heads have. glioma: a glioma before surgery, labelled as in BraTS 2018. pediatric: a
    child's tumour with cysts, labelled as in BraTS-PED 2024. post_treatment: what surgery left of a
    glioma, beside a resection cavity, labelled as in BraTS 2024."""
    seed: int = 0
    """Decides the shapes of heads and tumours."""

    def __post_init__(self) -> None:
        require(
            self.cases >= 2,
            "phantom.cases",
            self.cases,
            "at least one case to train on and one to test",
        )
        require(
            min(self.size) >= 48, "phantom.size", self.size, "every side must be at least 48 voxels"
        )
        require(self.seed >= 0, "phantom.seed", self.seed, "must be 0 or more")
