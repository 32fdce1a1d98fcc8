"""The tables of labels: internal classes, evaluation regions, and what each data set's values mean.

Values alone cannot tell a convention (1, 2, 3 means three different things, 4 is ET, ED or a cavity), so it comes from the
naming of the files, from a dataset.json that names its labels, or is stated; it is never guessed from the voxels.
"""

from dataclasses import dataclass, field

import numpy as np

from segmamba.errors import UserError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
BACKGROUND, NCR, ED, ET = range(4)
CLASSES = ("background", "NCR", "ED", "ET")

# Overlapping evaluation regions: enhancing tumour, tumour core, whole tumour (Menze et al. 2015, section IV).
REGION_CLASSES = {"ET": (ET,), "TC": (NCR, ET), "WT": (NCR, ED, ET)}
REGIONS = tuple(REGION_CLASSES)
REGIONS_AND_MEAN = (*REGIONS, "mean")  # the scores of one case: each region and their mean


@dataclass(frozen=True)
class Convention:
    """Which value in a segmentation file stands for which internal class.

    names: the data set's own name of each value. merged: values that share an internal class with another one, and what becomes
    of them; without any, labels -> regions -> labels is the identity. The network's output channels are CLASSES under all of them.
    """

    name: str
    values: dict
    used_by: str
    names: dict = field(default_factory=lambda: {0: "background", 1: "NCR", 2: "ED", 3: "ET"})
    merged: dict = field(default_factory=dict)
    warning: str = ""
    """What the naming of the files cannot tell and the user should know; empty for nothing."""

    @property
    def regions(self):
        """{"ET": (4,), ...}: the file's values that make up each evaluation region."""
        return {
            region: tuple(v for v, internal in self.values.items() if internal in classes)
            for region, classes in REGION_CLASSES.items()
        }

    @property
    def notes(self):
        """One line for each thing that a table of results must say about these labels."""
        return [f"labels {self.name}: {fate}" for fate in self.merged.values()] + (
            [f"labels {self.name}: {self.warning}"] if self.warning else []
        )


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "brats2018",
            {0: BACKGROUND, 1: NCR, 2: ED, 4: ET},
            "BraTS 2018-2021",
            {0: "background", 1: "NCR/NET", 2: "ED", 4: "ET"},
        ),
        Convention(
            "brats2023",
            {0: BACKGROUND, 1: NCR, 2: ED, 3: ET},
            "BraTS 2023 GLI, SSA, MEN and PED, GoAT",
        ),
        Convention(
            "brats2024",
            {0: BACKGROUND, 1: NCR, 2: ED, 3: ET, 4: BACKGROUND},
            "BraTS 2024 GLI (post-treatment) and MET",
            {0: "background", 1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"},
            merged={
                4: "the resection cavity (RC, 4) counts as background; it is in none of ET, TC, WT and is never predicted"
            },
        ),
        Convention(
            "brats2024ped",
            {0: BACKGROUND, 1: ET, 2: NCR, 3: NCR, 4: ED},
            "BraTS 2024 PED",
            {0: "background", 1: "ET", 2: "NETC", 3: "CC", 4: "ED"},
            merged={
                3: "the cystic component (CC, 3) counts as non-enhancing core (NETC, 2), as in TC, and is written as 2"
            },
            warning="BraTS-PED's 2023 release has the same file names and other values; it needs --labels brats2023",
        ),
        Convention(
            "msd",
            {0: BACKGROUND, 1: ED, 2: NCR, 3: ET},
            "Medical Segmentation Decathlon Task01, nnU-Net's BraTS 2021",
            {0: "background", 1: "ED", 2: "NCR", 3: "ET"},
        ),
    )
}

# Names in dataset.json files, compared in lower case with only their letters and digits.
MODALITY_NAMES = {
    "T1": ("t1", "t1w", "t1n", "t1native"),
    "T1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1cw", "t1post"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f", "t2flair", "fla", "t2wflair"),
}
LABEL_NAMES = {
    "ET": (
        "et",
        "enhancingtumor",
        "enhancingtumour",
        "gdenhancingtumor",
        "enhancing",
        "enhancingtissue",
    ),
    "TC": ("tc", "tumorcore", "tumourcore"),
    "WT": ("wt", "wholetumor", "wholetumour"),
    "ED": ("ed", "edema", "oedema", "peritumoraledema", "snfh"),
    "NCR": (
        "ncr",
        "ncrnet",
        "net",
        "netc",
        "necrosis",
        "necroticcore",
        "nonenhancingtumor",
        "nonenhancingtumour",
        "nonenhancingtumorcore",
    ),
    "CC": ("cc", "cysticcomponent", "cyst"),
    "RC": ("rc", "resectioncavity", "cavity"),
    "background": ("background", "bg"),
}


def convention(name):
    """The Convention called `name`; an unknown name is the user's mistake."""
    if name not in CONVENTIONS:
        known = "; ".join(f"{c.name} ({c.used_by})" for c in CONVENTIONS.values())
        raise UserError(f"--labels {name!r} is no known label convention: choose one of {known}")
    return CONVENTIONS[name]


def modality_of(name):
    """The modality that a data set calls `name` (T1w, t1gd, FLAIR ...), or None."""
    return _look_up(name, MODALITY_NAMES)


def convention_of(named_values):
    """The Convention that a dataset.json declares, or None where no known one says the same.

    named_values: {name: value or list of values}, nnU-Net's `labels`; unknown names make it None: they might mean anything.
    """
    told = {
        _look_up(name, LABEL_NAMES): frozenset(v if isinstance(v, (list, tuple)) else [v])
        for name, v in named_values.items()
    }
    if None in told:
        return None
    every_value = frozenset().union(*told.values()) | {0}
    for candidate in CONVENTIONS.values():
        if every_value == set(candidate.values) and all(
            told[name] == values for name, values in _meanings(candidate).items() if name in told
        ):
            return candidate
    return None


def _meanings(known):
    """{name as in LABEL_NAMES: set of file values} for the regions and the single classes of a Convention."""
    of_class = {
        CLASSES[c]: {v for v, internal in known.values.items() if internal == c}
        for c in range(len(CLASSES))
    }
    for value in known.merged:
        of_class[CLASSES[known.values[value]]].discard(value)
        of_class[known.names[value]] = {value}
    return {**{region: set(values) for region, values in known.regions.items()}, **of_class}


def _look_up(name, table):
    plain = "".join(letter for letter in str(name).lower() if letter.isalnum())
    return next((key for key, names in table.items() if plain in names), None)


def to_classes(values, convention_name, path):
    """Segmentation values, any shape, as internal classes (uint8). `path` is named if a value lies outside the convention."""
    table = convention(convention_name).values
    lookup = np.full(256, 255, np.uint8)
    lookup[list(table)] = list(table.values())
    with np.errstate(invalid="ignore"):
        small = np.asarray(values).astype(np.uint8)
    classes = lookup[small]
    if not (small == values).all() or classes.max(initial=0) == 255:
        unknown = [v.item() for v in np.unique(values) if v not in table]
        raise UserError(
            f"{path}: label value {', '.join(f'{v:g}' for v in unknown[:5])} is not in convention {convention_name} "
            f"({', '.join(map(str, table))}); correct the file or state the right convention with --labels"
        )
    return classes


def from_classes(classes, convention_name):
    """Internal classes as the values of a convention, uint8; the inverse of `to_classes` but for merged values."""
    known = convention(convention_name)
    lookup = np.zeros(len(CLASSES), np.uint8)
    for value, internal in known.values.items():
        if value not in known.merged:
            lookup[internal] = value
    return lookup[classes]


def region_masks(classes):
    """Internal classes (D, H, W) as bool (3, D, H, W), channels in REGIONS order. Takes NumPy arrays and tensors."""
    stack = np.stack if isinstance(classes, np.ndarray) else _torch_stack()
    masks = {c: classes == c for c in (NCR, ED, ET)}
    core = masks[NCR] | masks[ET]
    return stack([masks[ET], core, core | masks[ED]])


def classes_from_regions(masks):
    """Bool (3, ...) in REGIONS order as internal classes (...), uint8: inner regions overwrite outer ones. Inverse of `region_masks`."""
    classes = np.zeros(masks.shape[1:], np.uint8)
    for region, internal in (("WT", ED), ("TC", NCR), ("ET", ET)):
        classes[masks[REGIONS.index(region)]] = internal
    return classes


def _torch_stack():
    import torch

    return torch.stack
