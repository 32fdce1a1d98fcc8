"""What a NIfTI header cannot say, or says twice, and how large a volume may be."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import require

HeaderChoice = Literal["agree", "sform", "qform"]
DIRECTIONS = ({"L", "R"}, {"A", "P"}, {"I", "S"})


@dataclass(frozen=True, kw_only=True)
class HeaderRules:
    """How the headers of image files are read; the fields are those of the section `data`."""

    orientation: str = ""
    """Directions of the stored axes in files whose header names none, such as "LPS"; empty is
    off."""
    header: HeaderChoice = "agree"
    """Which description of the grid counts where a header's two disagree; "agree" is off."""
    max_volume_mib: int = 512
    """Largest volume, in MiB: as stored, with at least 4 bytes a voxel, and on the working grid."""

    def __post_init__(self) -> None:
        require(
            not self.orientation or _names_each_axis(self.orientation.upper()),
            "data.orientation",
            self.orientation,
            "must name the directions in which the three axes run, one of L or R, one of A or P "
            "and one of I or S, for example RAS or LPS; empty is off",
        )
        require(
            self.max_volume_mib > 0, "data.max_volume_mib", self.max_volume_mib, "must be above 0"
        )


def _names_each_axis(codes: str) -> bool:
    """Whether three letters name one direction of each of the patient's axes."""
    return len(codes) == 3 and all(len(pair & set(codes)) == 1 for pair in DIRECTIONS)
