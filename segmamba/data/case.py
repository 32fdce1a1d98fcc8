"""A case, as the layouts find it and everything behind them reads it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.data.labels import MODALITIES

ERROR, WARNING, INFORMATION = SEVERITIES = (
    "error",
    "warning",
    "information",
)  # an error is what a training run would stop at


@dataclass(frozen=True)
class Finding:
    """Something to say about a case. kind: two words for a table; text: one line with the file and, for an error, the fix."""

    severity: str
    kind: str
    text: str


@dataclass(frozen=True)
class Case:
    """One time point of one patient. images: modality to Path, for all of MODALITIES; label is None without a segmentation.

    channels: modality to place on the last axis, for 4-D files that hold several modalities; empty for a file each.
    findings: what the layout has to say; a case with an error among them may lack modalities.
    """

    id: str
    patient: str
    images: dict
    label: Path | None
    convention: str
    channels: dict = field(default_factory=dict)
    findings: tuple = ()

    @property
    def files(self):
        """Every file of the case, once, in the order of MODALITIES with the label last."""
        return list(
            dict.fromkeys(
                [
                    *(self.images[m] for m in MODALITIES if m in self.images),
                    *([self.label] if self.label else []),
                ]
            )
        )


def patient_of(case_id):
    """The patient behind a case id: BraTS-GLI-00005-101 and -100 are one person, as are Brats18_2013_2_1 and _2."""
    if re.fullmatch(r"BraTS-\w+-\d+-\d{3}", case_id, re.IGNORECASE):
        return case_id.rpartition("-")[0]
    if re.fullmatch(r"brats1[789]_\w+_\d", case_id, re.IGNORECASE):
        return case_id.rpartition("_")[0]
    return case_id


def stem_of(path):
    """A NIfTI file's name without its ending."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name)
