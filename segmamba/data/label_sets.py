"""Label sets: the classes that a network tells apart, and the regions that it is scored on.

A label convention (segmamba.data.labels) says which value in a file stands for which class; a label
set says which classes there are. Everything behind the files is given the set that it works with.

    set             classes             regions                   scored so by
    glioma          NCR, ED, ET         ET, TC, WT                BraTS until 2023, GoAT, MEN, SSA
    post_treatment  NETC, SNFH, ET, RC  ET, TC, WT, RC            BraTS 2024 on: GLI, MET
    pediatric       ET, NETC, CC, ED    ET, TC, WT, NETC, CC, ED  BraTS-PED 2024 on

Sources: Menze et al. 2015, section IV, for ET, TC and WT; the challenges' scorers for the others:
rachitsaluja/BraTS-2024-Metrics (metrics_GLI.py, metrics_MET.py, metrics_PED.py) and, since 2025,
BraTS/BraTS_evaluation (configs/config_gli.yaml, config_mets.yaml, config_ped.yaml). In both, TC is
1 + 3 and WT 1 + 2 + 3 of the post-treatment values: the resection cavity (RC, 4) is in neither.
GLI's scorer lists NETC and SNFH alone as well, MET's does not; what both score is taken here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from segmamba.errors import UserError

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", np.ndarray, "torch.Tensor")

BACKGROUND = "background"
MEAN = "mean"
"""The name of the mean over the regions, among the scores of a case."""
AUTO = "auto"
"""In a setting: the label set that the data's label convention has."""


@dataclass(frozen=True)
class LabelSet:
    """Classes, which exclude each other, and the regions that are made of them.

    A class's number, as label volumes hold it, is its place in `classes`; the background is 0.
    """

    name: str
    """As the setting `model.classes` gives it."""
    classes: tuple[str, ...]
    """Names of the classes, the background first."""
    regions: dict[str, tuple[str, ...]] = field(hash=False)
    """Name of a region to its classes; ET, TC and WT first."""
    written: tuple[tuple[str, str], ...]
    """(region, class) in the order in which masks of regions become classes, outer regions first:
    what is in a region and in none of those written after it is of the class."""
    convention: str
    """The label convention in which a prediction is written where nothing says otherwise."""
    as_glioma: dict[str, str] = field(hash=False)
    """Class to the class of GLIOMA that it counts as."""
    from_glioma: dict[str, str] = field(hash=False)
    """Class of GLIOMA to the class that stands for it in a prediction."""
    holds_glioma: bool
    """Whether labels of GLIOMA are whole labels of this set: none of its classes is merged there
    with one that scans of GLIOMA have."""
    members: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)
    """Region to the numbers of its classes, ascending."""
    within: dict[str, str] = field(init=False, repr=False, compare=False)
    """Written region to the smallest written region that holds it; "" where none does."""

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions, in the order of `regions`."""
        return tuple(self.regions)

    @property
    def scores(self) -> tuple[str, ...]:
        """What a case is scored on: each region, and their mean."""
        return (*self.regions, MEAN)

    @property
    def outlined(self) -> tuple[str, ...]:
        """The regions whose outlines a picture shows, inner ones first.

        Between them lies every class; other regions would only hide their outlines.
        """
        return tuple(region for region, _ in reversed(self.written))

    def __post_init__(self) -> None:
        # Plain attributes, not properties: torch.compile reads them while it traces the loss.
        members = {
            region: tuple(sorted(self.number(name) for name in names))
            for region, names in self.regions.items()
        }
        object.__setattr__(self, "members", members)
        written = [region for region, _ in self.written]
        within = {
            region: min(
                (other for other in written if self._holds(other, region)),
                key=lambda other: len(members[other]),
                default="",
            )
            for region in written
        }
        object.__setattr__(self, "within", within)

    def _holds(self, outer: str, inner: str) -> bool:
        return set(self.members[outer]) > set(self.members[inner])

    def number(self, class_name: str) -> int:
        """Return the number that stands for a class in label volumes."""
        return self.classes.index(class_name)


GLIOMA = LabelSet(
    name="glioma",
    classes=(BACKGROUND, "NCR", "ED", "ET"),
    regions={"ET": ("ET",), "TC": ("NCR", "ET"), "WT": ("NCR", "ED", "ET")},
    written=(("WT", "ED"), ("TC", "NCR"), ("ET", "ET")),
    convention="brats2023",
    as_glioma={"NCR": "NCR", "ED": "ED", "ET": "ET"},
    from_glioma={"NCR": "NCR", "ED": "ED", "ET": "ET"},
    holds_glioma=True,
)
POST_TREATMENT = LabelSet(
    name="post_treatment",
    classes=(BACKGROUND, "NETC", "SNFH", "ET", "RC"),
    regions={
        "ET": ("ET",),
        "TC": ("NETC", "ET"),
        "WT": ("NETC", "SNFH", "ET"),
        "RC": ("RC",),
    },
    written=(("WT", "SNFH"), ("TC", "NETC"), ("ET", "ET"), ("RC", "RC")),
    convention="brats2024",
    as_glioma={"NETC": "NCR", "SNFH": "ED", "ET": "ET", "RC": BACKGROUND},
    from_glioma={"NCR": "NETC", "ED": "SNFH", "ET": "ET"},
    # A scan from before surgery has no cavity.
    holds_glioma=True,
)
PEDIATRIC = LabelSet(
    name="pediatric",
    classes=(BACKGROUND, "ET", "NETC", "CC", "ED"),
    regions={
        "ET": ("ET",),
        "TC": ("ET", "NETC", "CC"),
        "WT": ("ET", "NETC", "CC", "ED"),
        "NETC": ("NETC",),
        "CC": ("CC",),
        "ED": ("ED",),
    },
    written=(("WT", "ED"), ("TC", "NETC"), ("CC", "CC"), ("ET", "ET")),
    convention="brats2024ped",
    as_glioma={"ET": "ET", "NETC": "NCR", "CC": "NCR", "ED": "ED"},
    from_glioma={"NCR": "NETC", "ED": "ED", "ET": "ET"},
    # NCR is NETC or CC, and nothing says which.
    holds_glioma=False,
)
LABEL_SETS = {s.name: s for s in (GLIOMA, POST_TREATMENT, PEDIATRIC)}
EVERY_REGION = tuple(dict.fromkeys(r for s in LABEL_SETS.values() for r in s.regions))
"""The regions of all label sets, each once."""


def label_set(name: str) -> LabelSet:
    """Look up a label set.

    Args:
        name: As the setting `model.classes` gives it. "auto", which no data have resolved, is
            GLIOMA.

    Returns:
        The set.

    Raises:
        UserError: There is none of this name.
    """
    if name == AUTO:
        return GLIOMA
    if name not in LABEL_SETS:
        raise UserError(f"{name!r} is no known label set: choose one of {', '.join(LABEL_SETS)}")
    return LABEL_SETS[name]


def readable_as(own: LabelSet, wanted: LabelSet) -> bool:
    """Tell whether labels of one set can be read as those of another.

    Args:
        own: The set that the labels' convention has.
        wanted: The set that they shall be read as.

    Returns:
        Whether it is the same, or merges the classes of `own`, or has classes that scans of `own`
        do not show.
    """
    return wanted in (own, GLIOMA) or (own == GLIOMA and wanted.holds_glioma)


def common_set(sets: Iterable[LabelSet]) -> LabelSet:
    """Return the one set of several data, or GLIOMA, as which all can be read."""
    different = set(sets)
    return different.pop() if len(different) == 1 else GLIOMA


def translation(source: LabelSet, target: LabelSet) -> list[int]:
    """List the class of one set that stands for each class of another.

    Args:
        source: The set of the classes that are there.
        target: The set of the classes that are wanted.

    Returns:
        The number in `target` for each class of `source`, by its number.
    """
    if source == target:
        return list(range(len(source.classes)))
    counted = [source.as_glioma.get(name, BACKGROUND) for name in source.classes]
    return [target.number(target.from_glioma.get(name, BACKGROUND)) for name in counted]


def counterpart(name: str, labels: LabelSet) -> str:
    """Find the class of a label set that stands for a class of another.

    Args:
        name: A class or a region of any set.
        labels: The set that is wanted.

    Returns:
        The class, for example SNFH for ED; the name itself where the set has it, or has none.
    """
    if name in (*labels.classes, *labels.regions):
        return name
    glioma = next((s.as_glioma[name] for s in LABEL_SETS.values() if name in s.as_glioma), name)
    return labels.from_glioma.get(glioma, name)


def region_masks(classes: Array, labels: LabelSet) -> Array:
    """Build the masks of the regions.

    Args:
        classes: Class numbers (D, H, W), a NumPy array or a tensor.
        labels: Their label set.

    Returns:
        Masks, bool (R, D, H, W), channels in the order of `labels.regions`, of the kind of
        `classes`.
    """
    masks = [classes == number for number in range(1, len(labels.classes))]
    regions = []
    for members in labels.members.values():
        mask = masks[members[0] - 1]
        for number in members[1:]:
            mask = mask | masks[number - 1]
        regions.append(mask)
    if isinstance(classes, np.ndarray):
        return np.stack(regions)
    import torch

    return torch.stack(regions)


def region_dict(classes: Array, labels: LabelSet) -> dict[str, Array]:
    """Build the masks of the regions by name; see `region_masks`."""
    return dict(zip(labels.regions, region_masks(classes, labels), strict=True))


def classes_from_regions(masks: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Build class numbers from the masks of the regions, in the order of `labels.written`.

    The inverse of `region_masks`.

    Args:
        masks: Bool (R, ...), channels in the order of `labels.regions`.
        labels: The label set.

    Returns:
        Class numbers, uint8 (...).
    """
    by_name = dict(zip(labels.regions, masks, strict=True))
    classes = np.zeros(masks.shape[1:], np.uint8)
    for region, name in labels.written:
        classes[by_name[region]] = labels.number(name)
    return classes
