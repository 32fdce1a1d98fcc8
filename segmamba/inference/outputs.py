"""What a prediction of many cases writes, and what became of each case."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from segmamba.data.case import Case, Finding
from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import written_values
from segmamba.data.missing import missing_modalities
from segmamba.disks import disk_line, disk_reason
from segmamba.errors import UserError
from segmamba.pictures.palette import DARK, Theme

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
"""The states of an Outcome."""
AGAIN = "the same command with --skip-existing goes on"


@dataclass(frozen=True)
class Outputs:
    """What is written, and where."""

    folder: Path
    labels: str | None = None
    """The label convention of the values; None for each case's own, or the network's where a case's
    own would merge its classes."""
    _: KW_ONLY
    probabilities: bool = False
    uncertainty: bool = False
    """Entropy and, of several networks, disagreement."""
    overlay: bool = False
    theme: Theme = DARK
    """What surrounds the images of an overlay."""
    page: bool = False
    skip_existing: bool = False
    """Whether a case is left whose files are all there."""
    record: bool = True
    """Whether predictions.json and failures.log are written; some programs take images alone."""

    def convention_for(self, case: Case, classes: LabelSet) -> str:
        """Name the label convention in which a case is written.

        Args:
            case: The case.
            classes: The label set of its prediction.

        Returns:
            The convention that is asked for, else the case's own, else, where two of the classes
            have one value in that, the usual one of the label set.
        """
        if self.labels:
            return self.labels
        values = written_values(case.convention, classes).tolist()
        return case.convention if len(set(values)) == len(values) else classes.convention

    def files(self, case_id: str, members: int) -> dict[str, Path]:
        """Everything that a case gets.

        Args:
            case_id: The case.
            members: How many networks vote.

        Returns:
            The paths by kind: "labels", "probabilities", "entropy", "disagreement", "overlay".
        """
        maps = {
            "probabilities": self.probabilities,
            "entropy": self.uncertainty,
            "disagreement": self.uncertainty and members > 1,
        }
        files = {"labels": self.folder / f"{case_id}.nii.gz"}
        for kind, wanted in maps.items():
            if wanted:
                files[kind] = self.folder / kind / f"{case_id}.nii.gz"
        if self.overlay:
            files["overlay"] = self.folder / "overlays" / f"{case_id}.png"
        return files


@dataclass(frozen=True)
class Outcome:
    """What became of one case."""

    case: str
    state: str
    """DONE, SKIPPED or FAILED."""
    error: str = ""
    """One line for the user, where the case failed."""
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """{"ET": ..., "TC": ..., "WT": ...} of a case that was predicted."""
    predict_s: float = 0.0
    """Seconds on the device."""
    mean_entropy: float | None = None
    """Over the voxels of the predicted whole tumour; None where it was not asked for or no tumour
    was predicted."""
    findings: tuple[Finding, ...] = ()
    """What is to say about the files of a case that was read."""
    traceback: str = ""
    """Of a case that failed for another reason than its files or the device's memory."""
    thumbnail: bytes = b""
    """A PNG for the page, where there is to be one."""
    labels: str = ""
    """The label convention of the values that are written."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The modalities that the case lacked; the network saw zeros in their place."""
        return missing_modalities(self.findings)


@contextmanager
def writing_to(outputs: Outputs) -> Iterator[None]:
    """Turn what the output folder cannot take into the user's error."""
    try:
        yield
    except OSError as error:
        if disk_reason(error):
            raise UserError(disk_line(error, AGAIN, outputs.folder)) from error
        raise UserError(
            f"--output {outputs.folder}: cannot be written ({error}); choose another folder"
        ) from error
