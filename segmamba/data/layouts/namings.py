"""How data sets name the files of a case, and the label convention that a name brings.

A naming is a table: an id, a separator, and a suffix for each modality and the segmentation. Where
it is known what the values of a segmentation mean, the naming says so with its source; where it is
not, the convention has to be stated with --labels. It is never guessed from the voxels.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from segmamba.data.image_files import stem_of

LABEL = "label"

# GLI time points from 100 on are BraTS 2024's, after surgery, with the resection cavity as value 4.
POST_TREATMENT = 100


@dataclass(frozen=True)
class Naming:
    """A way to name the files of a case."""

    name: str
    """The data set's name."""
    separator: str
    """Between the case's id and the suffix."""
    suffixes: dict[str, str]
    """Suffix to modality or LABEL, the usual one first. Capitals do not matter."""
    labels: str | None
    """The label convention of the segmentations; None where no publication tells it."""
    ids: str = ".+"
    """Regular expression that the ids match."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the stem of a file."""
        suffixes = "|".join(map(re.escape, self.suffixes))
        text = rf"(?P<case>{self.ids}){re.escape(self.separator)}(?P<suffix>{suffixes})"
        return re.compile(text, re.IGNORECASE | re.DOTALL)

    def suffix_of(self, part: str) -> str:
        """Take the usual suffix of a modality, or of LABEL."""
        return next(suffix for suffix, named in self.suffixes.items() if named == part)

    def part_of(self, stem: str) -> "FilePart | None":
        """Read a file's stem, or return None where it is named otherwise."""
        if not (match := self.pattern.fullmatch(stem)):
            return None
        lower = {suffix.lower(): part for suffix, part in self.suffixes.items()}
        return FilePart(match["case"], self, lower[match["suffix"].lower()])


class Bids(Naming):
    """The Brain Imaging Data Structure, https://bids-specification.readthedocs.io (1.10).

    sub-01/ses-02/anat/sub-01_ses-02_T1w, _ce-gadolinium_T1w, _T2w, _FLAIR; segmentations are
    ..._dseg below derivatives/. The standard does not say what their values mean. A dseg whose
    `desc` or `label` names something other than a tumour (aparcaseg, brain) is none of ours.
    """

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the stem of a file."""
        return re.compile(
            rf"(?P<case>{self.ids})(?P<entities>(_[a-z]+-[A-Za-z0-9+]+)*)"
            rf"_(?P<suffix>{'|'.join(self.suffixes)})"
        )

    def part_of(self, stem: str) -> "FilePart | None":
        """Read a file's stem, or return None where it is named otherwise."""
        if not (match := self.pattern.fullmatch(stem)):
            return None
        entities: dict[str, str] = dict(re.findall(r"_([a-z]+)-([A-Za-z0-9+]+)", match["entities"]))
        part = self.suffixes[match["suffix"]]
        if part == "T1" and "ce" in entities:
            part = "T1ce"
        kind = entities.get("desc") or entities.get("label") or "tumor"
        if part == LABEL and not re.search("tumou?r|lesion|glioma|brats", kind, re.IGNORECASE):
            return None
        return FilePart(match["case"], self, part)

    def suffix_of(self, part: str) -> str:
        """Take the usual suffix of a modality, or of LABEL."""
        return "ce-gadolinium_T1w" if part == "T1ce" else super().suffix_of(part)


class FilePart(NamedTuple):
    """What a file's name tells about the file."""

    case_id: str
    naming: Naming
    part: str
    """A modality or LABEL."""


_OLD = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR", "seg": LABEL}
BRATS_2018 = Naming("BraTS 2018-2021", "_", _OLD, "brats2018")
BRATS_2023 = Naming(
    "BraTS 2023 and later",
    "-",
    {"t1n": "T1", "t1c": "T1ce", "t2w": "T2", "t2f": "FLAIR", "seg": LABEL},
    "brats2023",  # but for the collections that `convention_name` knows
)

# The data sets from which BraTS took cases, and their followers. Each takes BraTS's own suffixes
# too, so that a case of which some files were renamed stays one case.
DATA_SETS = (
    # Bakas et al. 2022, https://doi.org/10.7937/TCIA.709X-DN49: images_structural/ID/ID_T1GD,
    # images_segm/ID_segm (corrected by experts), values 1 NCR, 2 ED, 4 ET. The automated
    # segmentations (automated_segm/ID_automated_approx_segm) are not taken for the truth.
    Naming(
        "UPENN-GBM",
        "_",
        {"T1": "T1", "T1GD": "T1ce", "T2": "T2", "FLAIR": "FLAIR", "segm": LABEL, **_OLD},
        "brats2018",
        r"UPENN-GBM-\d{5}_\d{2}",
    ),
    # Calabrese et al. 2022, https://doi.org/10.7937/tcia.bdgf-8v37: ID_nifti/ID_T1c,
    # ID_tumor_segmentation, values 1 NCR, 2 ED, 4 ET as in BraTS 2021, of which it is a part.
    # Follow-ups are ID_FU003d.
    Naming(
        "UCSF-PDGM",
        "_",
        {
            "T1": "T1",
            "T1c": "T1ce",
            "T2": "T2",
            "FLAIR": "FLAIR",
            "tumor_segmentation": LABEL,
            **_OLD,
        },
        "brats2018",
        r"UCSF-PDGM-\d{3,5}(?:_FU\d+d)?",
    ),
    # Bakas et al. 2017, https://doi.org/10.7937/K9/TCIA.2017.KLXWJJ1Q and .GJQ7R0EF:
    # TCGA-02-0006_1996.08.23_t1Gd, values 1 NCR/NET, 2 ED, 4 ET. ID_GlistrBoost is the machine's
    # segmentation before the experts' correction and is not taken for the truth.
    Naming(
        "BraTS-TCGA",
        "_",
        {
            "t1": "T1",
            "t1Gd": "T1ce",
            "t2": "T2",
            "flair": "FLAIR",
            "GlistrBoost_ManuallyCorrected": LABEL,
            **_OLD,
        },
        "brats2018",
        r"TCGA-\w{2}-\w{4}_\d{4}\.\d{2}\.\d{2}",
    ),
    # Mahmoud et al. 2025, https://doi.org/10.7937/7k9k-3c83:
    # PatientID_0003/Timepoint_1/PatientID_0003_Timepoint_1_brain_t1c, ..._tumorMask, values 1 NETC,
    # 2 SNFH, 3 ET, 4 RC as in BraTS 2024's post-treatment gliomas.
    Naming(
        "MU-Glioma-Post",
        "_",
        {
            "brain_t1n": "T1",
            "brain_t1c": "T1ce",
            "brain_t2w": "T2",
            "brain_t2f": "FLAIR",
            "tumorMask": LABEL,
        },
        "brats2024",
        r"PatientID_\d+_Timepoint_\d+",
    ),
    # Cepeda et al. 2023, https://doi.org/10.7937/4545-c905: RHUH-0001/0/RHUH-0001_0_t1ce,
    # ..._segmentations; their values are to be stated.
    Naming("RHUH-GBM", "_", {**_OLD, "segmentations": LABEL}, None, r"RHUH-\d{4}_\d"),
    Bids(
        "BIDS",
        "_",
        {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", "dseg": LABEL},
        None,
        r"sub-[A-Za-z0-9]+(?:_ses-[A-Za-z0-9]+)?",
    ),
)
NAMINGS = (*DATA_SETS, BRATS_2018, BRATS_2023)
"""All namings; the first that fits a file holds."""

# Files that were published under a name that no naming fits: (folder, stem) to the right name.
MISNAMED = {("BraTS20_Training_355", "W39_1998.09.19_Segm"): "BraTS20_Training_355_seg"}


def is_misnamed(path: Path) -> bool:
    """Tell whether a file was published under a wrong name that is known."""
    return (path.parent.name, stem_of(path)) in MISNAMED


def part_of(path: Path) -> FilePart | None:
    """Read a file's name.

    Args:
        path: An image file.

    Returns:
        The case, the naming and the part, or None for a name that no naming fits.
    """
    stem = MISNAMED.get((path.parent.name, stem_of(path)), stem_of(path))
    return next((part for naming in NAMINGS if (part := naming.part_of(stem))), None)


def naming_of_id(case_id: str) -> Naming | None:
    """Find the naming that an id alone reveals.

    Args:
        case_id: The id of a case.

    Returns:
        The naming, or None for an id that any data set could have.
    """
    for naming in DATA_SETS:
        if re.fullmatch(naming.ids, case_id, re.IGNORECASE):
            return naming
    for naming, start in ((BRATS_2018, r"brats\d{2,4}_"), (BRATS_2023, r"brats-")):
        if re.match(start, case_id, re.IGNORECASE):
            return naming
    return None


def convention_name(case_id: str, naming: Naming) -> str | None:
    """Derive the label convention from a case's name.

    Among BraTS's hyphenated names, PED has values of its own; GLI's time points from 100 on and MET
    (since 2025) may hold a resection cavity; all others have the values of 2023.

    Args:
        case_id: The case's id.
        naming: How its files are named.

    Returns:
        The convention's name, or None where the naming does not tell it.
    """
    if naming is not BRATS_2023:
        return naming.labels
    collection = re.fullmatch(r"BraTS-(\w+)-\w+?(?:-(\d{3}))?", case_id, re.IGNORECASE)
    name, time_point = (collection[1].upper(), int(collection[2] or 0)) if collection else ("", 0)
    if name.startswith("PED"):
        return "brats2024ped"
    post_treatment = name == "GLI" and time_point >= POST_TREATMENT
    return "brats2024" if name.startswith("MET") or post_treatment else naming.labels
