"""What is read, how patients are split and where patches are cut."""

import re
from dataclasses import dataclass
from typing import Literal

from segmamba.config.header import HeaderChoice, HeaderRules
from segmamba.config.rules import (
    SIDE_MULTIPLE,
    is_csv,
    require,
    require_each,
    require_patient_group,
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, its division into sets of patients, and the patches."""

    source: str = ""
    """Path of the data set, as --data gives it. Empty is the embedded phantom."""
    labels: str = "auto"
    """Label convention, as --labels gives it; auto and mixed take it from naming or
    dataset.json."""
    orientation: str = ""
    """Directions in which the stored axes run, such as RAS or LPS, of files whose header names
    none. Empty is off: such a file is an error."""
    header: HeaderChoice = "agree"
    """Which grid counts where a header's sform and qform disagree, or its sform and its voxel size:
    sform or qform. agree is off: such a file is an error."""
    max_volume_mib: int = 512
    """Largest volume that is read, in MiB, counted with at least 4 bytes a voxel, and largest
    channel of a working grid. A larger one is an error before memory is asked for."""
    names: tuple[str, ...] = ()
    """How the files of a case are named where no known layout fits: PART=TEMPLATE for T1, T1ce, T2,
    FLAIR and label, for example T1ce={case}_T1GD.nii.gz, as --names gives them. Empty takes the
    known layouts."""
    patients: str = ""
    """Which cases are of one patient: a regular expression that is searched for in every case's id
    and whose one group, or group `patient`, is the patient; or the path of a CSV file (.csv) with
    the header case,patient. Empty is off: the names tell, by the patterns of the usual data
    sets."""
    missing: Literal["error", "zeros"] = "error"
    """A case that lacks one to three of the four modalities. error: it is refused. zeros: it is
    used, and the channel of what it lacks is 0 after z-scoring, as outside the brain. An image of
    zeros alone counts as missing. A case without any image is refused always."""
    spacing_mm: float = 1.0
    """Isotropic voxel size, in mm, of the grid the network works in. A case that already has it is
    not resampled."""
    patch_size: tuple[int, int, int] = (128, 128, 64)
    """Voxels along NIfTI x, y, z of one training patch and of one inference window; multiples of
    16."""
    pad_to_patch: bool = False
    """Zero-pad volumes that are smaller than the patch. False is off: such a volume is an error."""
    tumour_centre_share: float = 0.5
    """Probability that a patch is centred on a tumour voxel; otherwise its centre is a brain voxel
    outside the tumour. 0 is off."""
    balance_classes: bool = False
    """Draw a tumour centre's class first, with equal chances for all classes of the case, so that
    small classes are seen as often. False is off: all tumour voxels have equal chances."""
    validation_cases: int = 20
    """At most this many cases are the validation set, which chooses checkpoints. More would only
    make validation slower."""
    validation_share: float = 0.15
    """Share of the patients held out for the validation set, before the cap of
    `validation_cases`."""
    test_share: float = 0.2
    """Share of the patients held out for the test set, which gives the verdict."""
    test_cases: int = 0
    """At most this many cases are tested; 0 is no cap."""
    split_seed: int = 0
    """Decides which patients fall into which set; the same for every arm and every seed of a
    study, unless `split_by_seed` is on."""
    split_by_seed: bool = False
    """Divide the patients anew for every seed of a study, the same for all arms of a seed, by
    `split_seed` plus the run's seed. A study then speaks for other divisions too (Bouthillier et
    al. 2021). False is off: one division."""
    folds: int = 0
    """Folds of a cross-validation, stratified by tumour volume and presence of ET; the test set is
    1 / folds of the patients. 0 is one split."""
    fold: int = 0
    """Which of the folds is trained and tested, from 0; they are those of `folds` or of
    `splits_file`."""
    splits_file: str = ""
    """Path of nnU-Net's splits_final.json, or of a MONAI datalist with folds, that says which cases
    are trained on and which are tested. Empty is off."""
    holdout_share: float = 0.0
    """Share of the patients that no study touches, chosen by their ids alone and kept for a final
    evaluation. 0 is off."""
    holdout_file: str = ""
    """Path of a list of patients or cases, one a line or a JSON list, that no study touches;
    instead of `holdout_share`. Empty is off."""
    labelled_share: float = 1.0
    """Share of the patients to train on whose labels are used; the others serve as unlabelled
    cases. 1 is all."""
    workers: int = 4
    """Processes that read patches; 0 reads them in the training process."""

    @property
    def header_rules(self) -> HeaderRules:
        """How the headers of the data set's files are read."""
        return HeaderRules(
            orientation=self.orientation, header=self.header, max_volume_mib=self.max_volume_mib
        )

    def __post_init__(self) -> None:
        _ = self.header_rules  # checks the three
        require(
            all(re.match(r"(T1|T1ce|T2|FLAIR|label)=.*\{(case|patient)\}", n) for n in self.names)
            and len({name.partition("=")[0] for name in self.names}) == len(self.names),
            "data.names",
            self.names,
            "each must be PART=TEMPLATE with {case} in it, one for each of T1, T1ce, T2, FLAIR and "
            "label; a file of templates is given with --names",
        )
        require(self.spacing_mm > 0, "data.spacing_mm", self.spacing_mm, "must be above 0 mm")
        require(
            all(s > 0 and s % SIDE_MULTIPLE == 0 for s in self.patch_size),
            "data.patch_size",
            self.patch_size,
            f"every side must be a positive multiple of {SIDE_MULTIPLE}, "
            "because the network halves it four times",
        )
        if self.patients and not is_csv(self.patients):
            require_patient_group("data.patients", self.patients)
        self._check_sets()
        self._check_folds()
        require(
            self.holdout_share < 1,
            "data.holdout_share",
            self.holdout_share,
            "must leave patients to study, below 1",
        )
        require(
            not (self.holdout_share and self.holdout_file),
            "data.holdout_file",
            self.holdout_file,
            "set holdout_share or holdout_file, not both",
        )
        require(
            0 < self.labelled_share <= 1,
            "data.labelled_share",
            self.labelled_share,
            "must lie in (0, 1], 1 being all labels",
        )
        require(self.workers >= 0, "data.workers", self.workers, "must be 0 or more processes")

    def _check_sets(self) -> None:
        require_each(
            self,
            "data",
            ("tumour_centre_share", "validation_share", "test_share", "holdout_share"),
            lambda share: 0 <= share <= 1,
            "must lie in [0, 1]",
        )
        require(
            self.validation_share + self.test_share < 1,
            "data.test_share",
            self.test_share,
            "validation_share + test_share must leave patients to train on, below 1 "
            f"(validation_share is {self.validation_share})",
        )
        require(
            self.validation_cases >= 1,
            "data.validation_cases",
            self.validation_cases,
            "at least one case must choose the checkpoint",
        )
        require(
            self.test_cases >= 0, "data.test_cases", self.test_cases, "must be 0 (no cap) or more"
        )

    def _check_folds(self) -> None:
        require(
            self.folds == 0 or self.folds >= 2,
            "data.folds",
            self.folds,
            "must be 0 (one split) or at least 2",
        )
        require(self.fold >= 0, "data.fold", self.fold, "folds are numbered from 0")
        require(
            not (self.folds and self.splits_file),
            "data.folds",
            self.folds,
            "splits_file brings its own folds; set one of the two",
        )
        require(
            self.splits_file or self.fold < max(self.folds, 1),
            "data.fold",
            self.fold,
            f"there are {self.folds} folds, numbered from 0; set data.folds or data.splits_file",
        )
