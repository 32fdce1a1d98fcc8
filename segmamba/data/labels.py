"""The label conventions: what the values in each data set's segmentation files mean.

Values alone do not identify a convention: 1, 2, 3 has three different meanings, and 4 is ET, ED or
a cavity. The convention therefore comes from the naming of the files, from a dataset.json that
names its labels, or is stated. It is never guessed from the voxels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import numpy as np

from segmamba.data.label_sets import (
    BACKGROUND,
    GLIOMA,
    PEDIATRIC,
    POST_TREATMENT,
    LabelSet,
    readable_as,
    translation,
)
from segmamba.errors import UserError

MODALITIES = ("T1", "T1ce", "T2", "FLAIR")


BLOCK_VOXELS = 2**20  # translated at once
WHOLE = 1e-3  # a label that is so near to a whole number is that number, inexactly stored


@dataclass(frozen=True)
class Convention:
    """Which value in a segmentation file stands for which class of a label set."""

    name: str
    labels: LabelSet
    """The classes that it tells apart."""
    values: dict[int, str]
    """Value in the file to class."""
    used_by: str
    """The data sets that follow the convention, in words."""
    names: dict[int, str]
    """The data set's own name of each value."""
    warning: str = ""
    """What the naming of the files does not reveal and the user should know; empty for nothing."""

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """The file's values that make up each region, for example {"ET": (4,), ...}."""
        return {
            region: tuple(value for value, name in self.values.items() if name in classes)
            for region, classes in self.labels.regions.items()
        }

    def numbers(self, labels: LabelSet) -> dict[int, int]:
        """Map each value in the file to its class number in a label set.

        Args:
            labels: The set that the values are read as.

        Returns:
            {value: class number}, in the order of `values`.

        Raises:
            UserError: The set has classes that the convention does not tell apart.
        """
        if not readable_as(self.labels, labels):
            raise UserError(
                f"labels {self.name} cannot be read as the classes {labels.name} "
                f"({', '.join(labels.classes[1:])}): they tell "
                f"{', '.join(self.labels.classes[1:])} apart; choose the classes "
                f"{' or '.join(dict.fromkeys((self.labels.name, GLIOMA.name)))}"
            )
        number = translation(self.labels, labels)
        return {value: number[self.labels.number(name)] for value, name in self.values.items()}

    def notes(self, labels: LabelSet) -> list[str]:
        """Say what a table of results must say about labels that are read as a label set.

        Args:
            labels: The set.

        Returns:
            A line for each class that is merged with another one, and the warning.
        """
        merged = _merged(self, labels) if labels != self.labels else []
        return [f"labels {self.name}: {line}" for line in merged] + (
            [f"labels {self.name}: {self.warning}"] if self.warning else []
        )


def _merged(known: Convention, labels: LabelSet) -> list[str]:
    """Return what becomes of the values that share a class with another one."""
    values = {name: value for value, name in known.values.items()}
    target = dict(zip(known.labels.classes, translation(known.labels, labels), strict=True))
    lines = []
    for name, number in target.items():
        first = next(other for other in target if target[other] == number)
        if name == first:
            continue
        value, into = values[name], labels.classes[number]
        lines.append(
            f"the resection cavity ({name}, {value}) counts as background; "
            f"it is in none of {', '.join(labels.regions)} and is never predicted"
            if number == 0
            else f"{known.names[value]} ({value}) counts as {into}, like "
            f"{known.names[values[first]]} ({values[first]}), and is written as {values[first]}"
        )
    return lines


CONVENTIONS = {
    c.name: c
    for c in (
        Convention(
            "brats2018",
            GLIOMA,
            {0: BACKGROUND, 1: "NCR", 2: "ED", 4: "ET"},
            "BraTS 2018-2021",
            {0: "background", 1: "NCR/NET", 2: "ED", 4: "ET"},
        ),
        Convention(
            "brats2023",
            GLIOMA,
            {0: BACKGROUND, 1: "NCR", 2: "ED", 3: "ET"},
            "BraTS 2023 GLI, SSA, MEN and PED, GoAT",
            {0: "background", 1: "NCR", 2: "ED", 3: "ET"},
        ),
        Convention(
            "brats2024",
            POST_TREATMENT,
            {0: BACKGROUND, 1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"},
            "BraTS 2024 GLI (post-treatment) and MET",
            {0: "background", 1: "NETC", 2: "SNFH", 3: "ET", 4: "RC"},
        ),
        Convention(
            "brats2024ped",
            PEDIATRIC,
            {0: BACKGROUND, 1: "ET", 2: "NETC", 3: "CC", 4: "ED"},
            "BraTS 2024 PED",
            {0: "background", 1: "ET", 2: "NETC", 3: "CC", 4: "ED"},
            warning="BraTS-PED's 2023 release has the same file names and other values; "
            "it needs --labels brats2023",
        ),
        Convention(
            "msd",
            GLIOMA,
            {0: BACKGROUND, 1: "ED", 2: "NCR", 3: "ET"},
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


def to_classes(
    values: np.ndarray, convention_name: str, path: Path | str, labels: LabelSet | None = None
) -> np.ndarray:
    """Translate the values of a segmentation file into class numbers.

    Args:
        values: Segmentation values, any shape.
        convention_name: The convention that they follow.
        path: The file, for the message.
        labels: The label set that they are read as; None is the convention's own.

    Returns:
        Class numbers, uint8, the shape of `values`.

    Raises:
        UserError: A value lies outside the convention, or is no whole number to `WHOLE`, or the set
            has classes that the convention does not tell apart.
    """
    known = convention(convention_name)
    table = known.numbers(labels or known.labels)
    lookup = np.full(256, 255, np.uint8)
    lookup[list(table)] = list(table.values())
    values = np.asarray(values)
    classes = np.empty_like(values, np.uint8)
    unknown: list[np.generic] = []
    for block in _blocks(values):
        small, whole = _whole_numbers(values[block])
        classes[block] = lookup[small]
        readable = whole & (classes[block] != 255)
        if not readable.all():
            unknown = [*np.unique([*unknown, *np.unique(values[block][~readable])])[:5]]
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


def from_classes(classes: np.ndarray, convention_name: str, labels: LabelSet) -> np.ndarray:
    """Translate class numbers into the values of a convention.

    The inverse of `to_classes` but for merged classes. A class that the convention lacks becomes
    the one that it counts as there: every value is a valid one.

    Args:
        classes: Class numbers, any shape.
        convention_name: The convention of the result.
        labels: The label set of `classes`.

    Returns:
        Segmentation values, uint8, the shape of `classes`.
    """
    return written_values(convention_name, labels)[classes]


def written_values(convention_name: str, labels: LabelSet) -> np.ndarray:
    """Return the value in a convention's files for each class number, uint8 (classes,).

    Args:
        convention_name: The convention of the values.
        labels: The label set of the classes.
    """
    known = convention(convention_name)
    value_of = {known.labels.number(name): value for value, name in known.values.items()}
    return np.array([value_of[n] for n in translation(labels, known.labels)], np.uint8)
