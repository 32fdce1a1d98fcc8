"""The tables of labels: internal classes, evaluation regions, and what each data set's values mean.

Values alone do not identify a convention: 1, 2, 3 has three different meanings, and 4 is ET, ED or
a cavity. The convention therefore comes from the naming of the files, from a dataset.json that
names its labels, or is stated. It is never guessed from the voxels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from segmamba.errors import UserError

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")
BACKGROUND, NCR, ED, ET = range(4)
CLASSES = ("background", "NCR", "ED", "ET")

# Overlapping evaluation regions: enhancing tumour, tumour core, whole tumour (Menze et al. 2015,
# section IV).
REGION_CLASSES: dict[str, tuple[int, ...]] = {"ET": (ET,), "TC": (NCR, ET), "WT": (NCR, ED, ET)}
REGIONS = tuple(REGION_CLASSES)
REGIONS_AND_MEAN = (*REGIONS, "mean")  # the scores of one case: each region and their mean


BLOCK_VOXELS = 2**20  # translated at once
WHOLE = 1e-3  # a label that is so near to a whole number is that number, inexactly stored


@dataclass(frozen=True)
class Convention:
    """Which value in a segmentation file stands for which internal class.

    The network's output channels are CLASSES under every convention.
    """

    name: str
    values: dict[int, int]
    """Value in the file to internal class."""
    used_by: str
    """The data sets that follow the convention, in words."""
    names: dict[int, str] = field(
        default_factory=lambda: {0: "background", 1: "NCR", 2: "ED", 3: "ET"}
    )
    """The data set's own name of each value."""
    merged: dict[int, str] = field(default_factory=dict)
    """Values that share an internal class with another one, and what becomes of them. Without any,
    labels -> regions -> labels is the identity."""
    warning: str = ""
    """What the naming of the files does not reveal and the user should know; empty for nothing."""

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """The file's values that make up each evaluation region, for example {"ET": (4,), ...}."""
        return {
            region: tuple(v for v, internal in self.values.items() if internal in classes)
            for region, classes in REGION_CLASSES.items()
        }

    @property
    def notes(self) -> list[str]:
        """What a table of results must say about these labels, a line each."""
        return [f"labels {self.name}: {consequence}" for consequence in self.merged.values()] + (
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
                4: "the resection cavity (RC, 4) counts as background; "
                "it is in none of ET, TC, WT and is never predicted"
            },
        ),
        Convention(
            "brats2024ped",
            {0: BACKGROUND, 1: ET, 2: NCR, 3: NCR, 4: ED},
            "BraTS 2024 PED",
            {0: "background", 1: "ET", 2: "NETC", 3: "CC", 4: "ED"},
            merged={
                3: "the cystic component (CC, 3) counts as non-enhancing core (NETC, 2), "
                "as in TC, and is written as 2"
            },
            warning="BraTS-PED's 2023 release has the same file names and other values; "
            "it needs --labels brats2023",
        ),
        Convention(
            "msd",
            {0: BACKGROUND, 1: ED, 2: NCR, 3: ET},
            "Medical Segmentation Decathlon Task01, nnU-Net's BraTS 2021",
            {0: "background", 1: "ED", 2: "NCR", 3: "ET"},
        ),
    )
}


def convention(name: str) -> Convention:
    """Look up a convention.

    Args:
        name: Its name, as --labels gives it.

    Returns:
        The convention.

    Raises:
        UserError: There is none of this name.
    """
    if name not in CONVENTIONS:
        known = "; ".join(f"{c.name} ({c.used_by})" for c in CONVENTIONS.values())
        raise UserError(f"--labels {name!r} is no known label convention: choose one of {known}")
    return CONVENTIONS[name]


def to_classes(values: np.ndarray, convention_name: str, path: Path | str) -> np.ndarray:
    """Translate the values of a segmentation file into internal classes.

    Args:
        values: Segmentation values, any shape.
        convention_name: The convention that they follow.
        path: The file, for the message.

    Returns:
        Internal classes, uint8, the shape of `values`.

    Raises:
        UserError: A value lies outside the convention, or is no whole number to `WHOLE`.
    """
    table = convention(convention_name).values
    lookup = np.full(256, 255, np.uint8)
    lookup[list(table)] = list(table.values())
    values = np.asarray(values)
    classes = np.empty_like(values, np.uint8)
    unknown: list[np.generic] = []
    for block in _blocks(values):
        small, known = _whole_numbers(values[block])
        classes[block] = lookup[small]
        known &= classes[block] != 255
        if not known.all():
            unknown = [*np.unique([*unknown, *np.unique(values[block][~known])])[:5]]
    if unknown:
        raise UserError(
            f"{path}: label value {', '.join(str(v).removesuffix('.0') for v in unknown)} is not "
            f"in convention {convention_name} ({', '.join(map(str, table))}); correct the file or "
            "state the right convention with --labels"
        )
    return classes


def _blocks(values: np.ndarray) -> Iterator[tuple[EllipsisType, slice] | tuple[()]]:
    """Indices that cut an array along its last axis, which bounds what is in memory beside it."""
    if values.ndim == 0:
        yield ()
        return
    step = max(1, BLOCK_VOXELS * values.shape[-1] // max(1, values.size))
    for start in range(0, values.shape[-1], step):
        yield ..., slice(start, start + step)


def _whole_numbers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest whole numbers as uint8, and a mask of the values that they stand for."""
    if values.dtype.kind != "f":
        small = values.astype(np.uint8)
        return small, np.asarray(small == values)
    with np.errstate(invalid="ignore"):
        whole = np.rint(values)
        small = whole.astype(np.uint8)
        return small, np.asarray((small == whole) & (np.abs(values - whole) <= WHOLE))


def from_classes(classes: np.ndarray, convention_name: str) -> np.ndarray:
    """Translate internal classes into the values of a convention.

    The inverse of `to_classes` but for merged values.

    Args:
        classes: Internal classes, any shape.
        convention_name: The convention of the result.

    Returns:
        Segmentation values, uint8, the shape of `classes`.
    """
    known = convention(convention_name)
    lookup = np.zeros(len(CLASSES), np.uint8)
    for value, internal in known.values.items():
        if value not in known.merged:
            lookup[internal] = value
    return lookup[classes]


def region_masks(classes: Array) -> Array:
    """Build the masks of the evaluation regions.

    Args:
        classes: Internal classes (D, H, W), a NumPy array or a tensor.

    Returns:
        Masks, bool (3, D, H, W), channels in REGIONS order, of the kind of `classes`.
    """
    masks = {c: classes == c for c in (NCR, ED, ET)}
    core = masks[NCR] | masks[ET]
    regions = [masks[ET], core, core | masks[ED]]
    if isinstance(classes, np.ndarray):
        return np.stack(regions)
    import torch

    return torch.stack(regions)


def classes_from_regions(masks: np.ndarray) -> np.ndarray:
    """Build internal classes from the masks of the regions: inner regions overwrite outer ones.

    The inverse of `region_masks`.

    Args:
        masks: Bool (3, ...), channels in REGIONS order.

    Returns:
        Internal classes, uint8 (...).
    """
    classes = np.zeros(masks.shape[1:], np.uint8)
    for region, internal in (("WT", ED), ("TC", NCR), ("ET", ET)):
        classes[masks[REGIONS.index(region)]] = internal
    return classes
