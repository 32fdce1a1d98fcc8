"""A case, as the layouts find it and everything behind them reads it."""

from dataclasses import dataclass, field
from pathlib import Path

from segmamba.config.header import HeaderRules
from segmamba.data.image_files import companion_of
from segmamba.data.label_sets import AUTO, LabelSet, label_set
from segmamba.data.labels import MODALITIES, convention
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
    """Modality to file, for all of MODALITIES unless the case `may_lack` some or an error is among
    the findings."""
    label: Path | None
    """The segmentation; None without one."""
    convention: str
    """Name of the label convention."""
    channels: dict[str, int] = field(default_factory=dict)
    """Modality to place on the last axis, for 4-D files that hold several modalities; empty where
    each modality has a file of its own."""
    findings: tuple[Finding, ...] = ()
    """What the layout has to say."""
    header: HeaderRules = field(default_factory=HeaderRules)
    """How the headers of its files are read."""
    channel_count: int = 0
    """Channels that the layout names for a 4-D file, those of no modality included; 0 where each
    modality has a file of its own."""
    classes: str = AUTO
    """Name of the label set that the segmentation is read as; "auto" is the convention's own."""
    may_lack: bool = False
    """Whether up to three modalities may be missing; their channels are zeros then."""

    @property
    def label_set(self) -> LabelSet:
        """The label set that the segmentation is read as."""
        if self.classes == AUTO:
            return convention(self.convention).labels
        return label_set(self.classes)

    @property
    def files(self) -> list[Path]:
        """Every file of the case, once, in the order of MODALITIES with the label last.

        The file with the voxels follows its header where they are two.
        """
        named = [self.images[m] for m in MODALITIES if m in self.images]
        named += [self.label] if self.label else []
        files = [file for path in named for file in (path, companion_of(path)) if file]
        return list(dict.fromkeys(files))


def surplus_channels(case: Case, path: Path, held: int) -> Finding | None:
    """Compare the channels of a 4-D file with those that its layout names.

    Args:
        case: The case.
        path: Its file.
        held: Channels of the file.

    Returns:
        An error where the file holds more, or None. One that is missing has an error of its own.
    """
    if not case.channel_count or held <= case.channel_count:
        return None
    text = (
        f"{case.id}: {path} has {held} channels but {case.channel_count} are named; name every "
        "channel or correct the file"
    )
    return Finding(ERROR, "surplus channel", text)
