"""A case, as the layouts find it and everything behind them reads it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.data.labels import MODALITIES
from segmamba.data.patient_names import patient_of as patient_of  # beside Case, for the layouts

# An error is what a training run would stop at.
ERROR, WARNING, INFORMATION = SEVERITIES = ("error", "warning", "information")


@dataclass(frozen=True)
class Finding:
    """Something to say about a case."""

    severity: str
    """One of SEVERITIES."""
    kind: str
    """Two words for a table."""
    text: str
    """One line with the file and, for an error, the fix."""


@dataclass(frozen=True)
class Case:
    """One time point of one patient."""

    id: str
    patient: str
    images: dict[str, Path]
    """Modality to file, for all of MODALITIES unless an error is among the findings."""
    label: Path | None
    """The segmentation; None without one."""
    convention: str
    """Name of the label convention."""
    channels: dict[str, int] = field(default_factory=dict)
    """Modality to place on the last axis, for 4-D files that hold several modalities; empty where
    each modality has a file of its own."""
    findings: tuple[Finding, ...] = ()
    """What the layout has to say."""

    @property
    def files(self) -> list[Path]:
        """Every file of the case, once, in the order of MODALITIES with the label last."""
        images = [self.images[m] for m in MODALITIES if m in self.images]
        return list(dict.fromkeys([*images, *([self.label] if self.label else [])]))


def stem_of(path: Path | str) -> str:
    """Take the ending off a NIfTI file's name.

    Args:
        path: The file.

    Returns:
        Its name without .nii or .nii.gz.
    """
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name)
