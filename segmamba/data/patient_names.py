"""Whose scan a case is, told from its id: the patterns of the usual data sets, and a guess.

A pattern is that of a data set whose names are documented. Where none fits, an ending that speaks
of time (_s1, _visit2, -T0, _pre, a date) is taken off as a guess. A number at the end alone is
never taken off: BraTS20_Training_001, BraTS2021_00001, BRATS_001 and case_001 are patients.

Not told by names: one person under ids of two data sets (BraTS 2021 contains BraTS 2020 and parts
of UPENN-GBM and UCSF-PDGM). `same_images` finds those by their voxels.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Pattern:
    """How a data set names the time points of a patient."""

    dataset: str
    expression: re.Pattern[str]
    """Matches a whole id; its first group is the patient."""
    example: tuple[str, str]
    """Two ids of one patient."""


def _pattern(dataset: str, expression: str, *example: str) -> Pattern:
    first, second = example
    return Pattern(dataset, re.compile(expression, re.IGNORECASE), (first, second))


PATTERNS = (
    # BraTS 2023 and later (synapse.org/brats2023): task, patient, time point. GoAT has no time
    # points (BraTS-GoAT-00000) and is matched by nothing.
    _pattern(
        "BraTS 2023 and later",
        r"(BraTS-\w+-\d+)-\d{3}",
        "BraTS-GLI-00005-100",
        "BraTS-GLI-00005-101",
    ),
    # BraTS 2024 meningioma radiotherapy (synapse.org syn53708249): patient and course.
    _pattern(
        "BraTS-MEN-RT", r"(BraTS-MEN-RT-\d+)-\d", "BraTS-MEN-RT-0002-1", "BraTS-MEN-RT-0002-2"
    ),
    # BraTS 2017 to 2019 (med.upenn.edu/cbica/brats2018): institution, patient, time point.
    _pattern("BraTS 2017-2019", r"(brats1[789]_\w+)_\d", "Brats18_2013_2_1", "Brats18_2013_2_2"),
    # BraTS 2013 to 2016 (smir.ch): patient, then number or day of the scan.
    _pattern(
        "BraTS 2013-2016",
        r"(brats_(?:2013|tcia)_pat\d+)_\d+",
        "brats_tcia_pat230_0001",
        "brats_tcia_pat230_0710",
    ),
    # BraTS-Reg (Baheti et al. 2021, arXiv 2112.06979): patient, 00 or 01, day of the scan.
    _pattern(
        "BraTS-Reg",
        r"(BraTSReg_(?:val_)?\d+)_\d\d_\d{4}",
        "BraTSReg_001_00_0000",
        "BraTSReg_001_01_0106",
    ),
    # Bakas et al. 2022, Scientific Data 9:453: _11 before surgery, _21 follow-up.
    _pattern("UPENN-GBM", r"(UPENN-GBM-\d+)_\d+", "UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
    # Calabrese et al. 2022, TCIA 10.7937/tcia.bdgf-8v37: _FU and the days to the follow-up; the
    # folders of the release end in _nifti.
    _pattern(
        "UCSF-PDGM",
        r"(UCSF-PDGM-\d+)(?:_FU\d+d)?(?:_nifti)?",
        "UCSF-PDGM-0429",
        "UCSF-PDGM-0429_FU003d",
    ),
    # Fields et al. 2024, Radiology: AI 6(4), 10.1148/ryai.230182.
    _pattern("UCSF-ALPTDG", r"(\d{6})_time\d", "100001_time1", "100001_time2"),
    # Rudie et al. 2024, Radiology: AI 6(2), 10.1148/ryai.230126: a letter for each course.
    _pattern("UCSF-BMSR", r"(\d{6})[A-Z]", "100101A", "100101B"),
    # Post-treatment glioblastoma of UC San Diego, TCIA UCSD-PTGBM.
    _pattern("UCSD-PTGBM", r"(UCSD-PTGBM-\d+)_\d+", "UCSD-PTGBM-0001_01", "UCSD-PTGBM-0001_02"),
    # Suter et al. 2022, Scientific Data 9:768: week, and a number where a week has two scans.
    _pattern(
        "LUMIERE",
        r"(Patient-\d+)[_/-]week-\d+(?:-\d+)?",
        "Patient-001_week-000-1",
        "Patient-001_week-044",
    ),
    # University of Missouri, TCIA MU-Glioma-Post.
    _pattern(
        "MU-Glioma-Post",
        r"(PatientID_\d+)[_/-]Timepoint_\d+",
        "PatientID_0003_Timepoint_1",
        "PatientID_0003_Timepoint_5",
    ),
    # Cepeda et al. 2023, Data in Brief 50:109617: 0 before surgery, 1 after it, 2 recurrence; the
    # DICOM release has dates.
    _pattern("RHUH-GBM", r"(RHUH-\d+)[_/-].+", "RHUH-0001_0", "RHUH-0001_2"),
    # Yale-Brain-Mets-Longitudinal, TCIA 10.7937/3YAT-E768: a code, then the date of the scan.
    _pattern(
        "Yale-Brain-Mets",
        r"(YG_[A-Z0-9]+)[_/-]\d{4}-\d\d-\d\d.*",
        "YG_0DO5AUMO1O6Y_2016-04-15",
        "YG_0DO5AUMO1O6Y_2016-07-01",
    ),
    # TCGA barcodes (docs.gdc.cancer.gov): centre and participant; Bakas et al. 2017, Scientific
    # Data 4:170117 add the date.
    _pattern(
        "TCGA",
        r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:[-_./].*)?",
        "TCGA-02-0006_1996.08.23",
        "TCGA-02-0006_1996.09.28",
    ),
    # BIDS (bids-specification.readthedocs.io): the entity sub- is the person.
    _pattern("BIDS", r"(sub-[A-Za-z0-9]+)(?:[_/-].+)?", "sub-01_ses-01", "sub-01_ses-02"),
)

_LONG = (
    r"(?:ses|sess|session|visit|vis|timepoint|time|tp|week|wk|month|mon|fu|follow[_-]?up)"
    r"[_ -]?\d{1,4}(?:-\d)?[a-z]?"
    r"|(?:pre|post|intra)(?:[_-]?(?:op|operative|surgery|rt|treatment|tx|contrast))?\d?"
    r"|baseline|bl|follow[_-]?up|fu"
)
_SHORT = r"[svtmy]-?\d{1,2}|(?:[dw]|scan|exam|study|day|year|yr|mri?)[_-]?d?\d{1,4}"
_DATE = (
    r"(?:19|20)\d\d[._-]?(?:0[1-9]|1[0-2])[._-]?(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])-(?:19|20)\d\d"
)
_SPEAKS_OF_TIME = re.compile(rf"(.+?)[_./ -](?:{_LONG})", re.IGNORECASE)
# glioma_s1 and glioma_s2, or GBM_20190102 and GBM_20190103, are no one person: before a letter, a
# scan or a date, the rest must number the person.
_SPEAKS_BRIEFLY = re.compile(rf"(.*\d.*?)[_./ -](?:{_SHORT}|{_DATE})", re.IGNORECASE)
_ENDS_IN_NUMBER = re.compile(
    r"(.*\d.*?)(?:[_. -][A-Za-z]{0,4}\d{1,2}| ?\(\d{1,2}\)|[_. -]?[A-Za-z])"
)


def pattern_of(case_id: str) -> Pattern | None:
    """Find the data set whose pattern an id has.

    Args:
        case_id: The id of a case.

    Returns:
        The first of PATTERNS that matches, or None.
    """
    return next((p for p in PATTERNS if p.expression.fullmatch(case_id)), None)


def patient_of(case_id: str) -> str:
    """Derive the patient from the id of a case.

    BraTS-GLI-00005-101 and -100 are one patient, as are Brats18_2013_2_1 and _2, and P01_s1 and
    P01_s2. The result depends on the id alone.

    Args:
        case_id: The id of a case.

    Returns:
        The id without its time point, or the id itself where it has none.
    """
    if pattern := pattern_of(case_id):
        match = pattern.expression.fullmatch(case_id)
        return match[1] if match else case_id
    while match := _SPEAKS_OF_TIME.fullmatch(case_id) or _SPEAKS_BRIEFLY.fullmatch(case_id):
        case_id = match[1]
    return case_id


def stem_before_number(case_id: str) -> str | None:
    """Take a short number or a letter off an id that no pattern and no guess explains.

    P01_1 and P01_2, or 7a and 7b, may be scans of one person or not: the names do not tell.

    Args:
        case_id: The id of a case.

    Returns:
        What stands before the number, where that has a number too; None for other ids.
    """
    if pattern_of(case_id) or patient_of(case_id) != case_id:
        return None
    match = _ENDS_IN_NUMBER.fullmatch(case_id)
    return match[1] if match else None
