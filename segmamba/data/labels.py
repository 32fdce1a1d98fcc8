"""The tables of labels: internal classes, evaluation regions, and what each data set's values mean.

Values alone cannot tell a convention (1, 2, 3 means three different things), so it comes from the naming or is stated.
"""

from dataclasses import dataclass

import numpy as np

from segmamba.errors import UserError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
BACKGROUND, NCR, ED, ET = range(4)
CLASSES = ("background", "NCR", "ED", "ET")

# Overlapping evaluation regions: enhancing tumour, tumour core, whole tumour (Menze et al. 2015, section IV).
REGION_CLASSES = {"ET": (ET,), "TC": (NCR, ET), "WT": (NCR, ED, ET)}
REGIONS = tuple(REGION_CLASSES)


@dataclass(frozen=True)
class Convention:
    """Which value in a segmentation file stands for which internal class."""

    name: str
    values: dict
    used_by: str


CONVENTIONS = {
    c.name: c
    for c in (
        Convention("brats2018", {0: BACKGROUND, 1: NCR, 2: ED, 4: ET}, "BraTS 2018-2021"),
        Convention("brats2023", {0: BACKGROUND, 1: NCR, 2: ED, 3: ET}, "BraTS 2023 GLI and SSA, GoAT"),
        Convention("msd", {0: BACKGROUND, 1: ED, 2: NCR, 3: ET}, "Medical Segmentation Decathlon Task01, nnU-Net's BraTS 2021"),
    )
}


def convention(name):
    """The Convention called `name`; an unknown name is the user's mistake."""
    if name not in CONVENTIONS:
        known = "; ".join(f"{c.name} ({c.used_by})" for c in CONVENTIONS.values())
        raise UserError(f"--labels {name!r} is no known label convention: choose one of {known}")
    return CONVENTIONS[name]


def to_classes(values, convention_name, path):
    """Segmentation values, any shape, as internal classes (uint8). `path` is named if a value lies outside the convention."""
    table = convention(convention_name).values
    found = np.unique(values)
    unknown = [v.item() for v in found if v not in table]
    if unknown:
        raise UserError(
            f"{path}: label value {', '.join(f'{v:g}' for v in unknown[:5])} is not in convention {convention_name} "
            f"({', '.join(map(str, table))}); correct the file or state the right convention with --labels"
        )
    classes = np.zeros(values.shape, np.uint8)
    for value in found:
        if table[value.item()]:
            classes[values == value] = table[value.item()]
    return classes


def from_classes(classes, convention_name):
    """Internal classes as the values of a convention, uint8; the inverse of `to_classes`."""
    lookup = np.zeros(len(CLASSES), np.uint8)
    for value, internal in convention(convention_name).values.items():
        lookup[internal] = value
    return lookup[classes]


def region_masks(classes):
    """Internal classes (D, H, W) as bool (3, D, H, W), channels in REGIONS order. Takes NumPy arrays and tensors."""
    stack = np.stack if isinstance(classes, np.ndarray) else _torch_stack()
    masks = {c: classes == c for c in (NCR, ED, ET)}
    core = masks[NCR] | masks[ET]
    return stack([masks[ET], core, core | masks[ED]])


def _torch_stack():
    import torch

    return torch.stack
