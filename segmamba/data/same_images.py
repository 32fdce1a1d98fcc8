"""The same scan under two ids: images are compared by their brain voxels, not by their files.

BraTS years contain one another, and other collections: one person comes under several ids, and
would be trained on and tested. Cases that share an image, in any modality, are one patient.

Recognised is an image that was padded or cropped, moved by its affine, stored in another data
type, compression or axis order, turned or mirrored along its axes, or whose intensities were
changed by any rising function without loss (another unit, a z-score): what is compared are the
ranks of the intensities within the brain. Not recognised is an image with other voxels: resampled
or registered anew, skull-stripped otherwise, bias-corrected, smoothed, or rounded to fewer grey
values. Such copies are known only by their names (data.patients).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from segmamba.data.background import bounding_box
from segmamba.data.case import WARNING, Case, Finding
from segmamba.data.labels import MODALITIES
from segmamba.data.parallel import Progress, map_cases, no_progress
from segmamba.data.volumes import read_case

FEWEST_LEVELS = 8
"""An image of fewer grey values is a mask or a drawing, and two persons' may be alike."""
MOST_LEVELS = 2**20
MOST_NAMED = 10  # groups in one note


class ImagedCase(Protocol):
    """What a case must have to be compared."""

    @property
    def id(self) -> str: ...

    @property
    def patient(self) -> str: ...

    @property
    def image_digests(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class DigestedCase:
    """A case that is not preprocessed, with what its images are compared by."""

    id: str
    patient: str
    image_digests: Sequence[str]


@dataclass(frozen=True)
class SameImages:
    """Which cases share an image, and whom that makes one patient."""

    groups: tuple[tuple[str, ...], ...]
    """Ids of cases that share an image, directly or through others; sorted."""
    joined: Mapping[str, str]
    """Patient by name to the name that the joined patient has; only of those that are joined."""

    def patient(self, name: str) -> str:
        """Name the patient whom a name stands for."""
        return self.joined.get(name, name)

    def findings(self, case_id: str) -> list[Finding]:
        """Say with whom a case shares an image: one warning, or none."""
        others = [i for group in self.groups if case_id in group for i in group if i != case_id]
        if not others:
            return []
        text = (
            f"{case_id}: shares an image with {', '.join(others)}; they count as one patient, and "
            "one that is a copy is better removed"
        )
        return [Finding(WARNING, "same image", text)]

    @property
    def notes(self) -> list[str]:
        """What a study must say: one line, or none."""
        if not self.groups:
            return []
        cases = sum(map(len, self.groups))
        named = "; ".join(" and ".join(group) for group in self.groups[:MOST_NAMED])
        more = len(self.groups) - MOST_NAMED
        return [
            f"{cases} cases share an image with another and count as one patient with it: {named}"
            + (f"; and {more} more groups" if more > 0 else "")
        ]


NO_SAME_IMAGES = SameImages((), {})


def image_digests(channels: Iterable[np.ndarray]) -> list[str]:
    """Digest the images of a case, as this file's first lines say.

    Args:
        channels: The images, (x, y, z) each, as they were read.

    Returns:
        A digest of each, 32 hexadecimal digits; images that tell no persons apart have none.
    """
    with np.errstate(all="ignore"):  # of images that overflow, whose findings say so
        digests = [_digest(np.asarray(channel, np.float32)) for channel in channels]
    return [digest for digest in digests if digest]


def find_same_images(cases: Sequence[ImagedCase]) -> SameImages:
    """Find the cases that share an image, and join their patients.

    Args:
        cases: The cases.

    Returns:
        The groups of cases. A joined patient has that one of its names which `place` puts first:
        a new case never moves a patient out of the holdout set.
    """
    first: dict[str, ImagedCase] = {}
    by_image, by_patient = _Groups(), _Groups()
    for case in cases:
        for digest in case.image_digests:
            other = first.setdefault(digest, case)
            if other.id != case.id:
                by_image.join(other.id, case.id)
                by_patient.join(other.patient, case.patient)
    joined: dict[str, str] = {}
    for names in by_patient.members():
        name = min(names, key=lambda name: (place(name), name))
        joined |= dict.fromkeys(names, name)
    return SameImages(tuple(sorted(map(tuple, by_image.members()))), joined)


def digest_files(cases: Sequence[Case], *, progress: Progress = no_progress) -> list[DigestedCase]:
    """Read and digest the images of cases that are not preprocessed, on all cores.

    Args:
        cases: Cases as the layouts find them. What cannot be read has no digest.
        progress: Called with (cases done, cases in all).

    Returns:
        The cases with their digests, in the order of `cases`.
    """
    return map_cases(_digest_case, cases, lost=_undigested, progress=progress)


def place(patient: str) -> float:
    """Place a patient in [0, 1) by nothing but its name; the holdout set takes the first.

    Args:
        patient: The patient's name.

    Returns:
        The place.
    """
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64


def _digest_case(case: Case) -> DigestedCase:
    channels = read_case(case).channels
    digests = image_digests(channels[m] for m in MODALITIES if m in channels)
    return DigestedCase(case.id, case.patient, digests)


def _undigested(case: Case) -> DigestedCase:
    return DigestedCase(case.id, case.patient, ())


def _digest(channel: np.ndarray) -> str | None:
    """Digest an image, float32 (x, y, z); None where it has too few grey values."""
    inside = channel != _background(channel)
    if not inside.any():
        return None
    box = bounding_box(inside)
    ranks = _ranks(channel[inside])
    if ranks.max() < FEWEST_LEVELS:
        return None
    grid = np.zeros(channel[box].shape, np.int32)
    grid[inside[box]] = ranks
    turned = _turned(grid)
    sha256 = hashlib.sha256(repr(turned.shape).encode())
    sha256.update(np.ascontiguousarray(turned).data)
    return sha256.hexdigest()[:32]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Number the distinct values from 1 on, in rising order; int32 of the shape of `values`."""
    low, high = float(values.min()), float(values.max())
    whole = values.astype(np.int32) if high - low < MOST_LEVELS and abs(low) < 2**24 else None
    if whole is not None and (whole == values).all():  # ten times as fast as sorting
        whole -= int(low)
        return np.cumsum(np.bincount(whole) > 0, dtype=np.int32)[whole]
    return (np.searchsorted(np.unique(values), values) + 1).astype(np.int32)


def _background(channel: np.ndarray) -> float:
    """The value that most voxels on the faces of the volume have; 0 where no value has most."""
    axes = range(3)
    sides = [channel[(slice(None),) * axis + (at,)].ravel() for axis in axes for at in (0, -1)]
    faces = np.concatenate(sides)
    middle = np.partition(faces, len(faces) // 2)[len(faces) // 2]  # what most have is the median
    return float(middle) if 2 * np.count_nonzero(faces == middle) > len(faces) else 0.0


def _turned(ranks: np.ndarray) -> np.ndarray:
    """Bring ranks, int (x, y, z), into the axis order and directions that they have by themselves.

    The shortest side comes first, and of equal sides the better balanced one; along each, the
    lower half weighs more.
    """
    moments = []
    for axis, side in enumerate(ranks.shape):
        others = tuple({0, 1, 2} - {axis})
        arms = 2 * np.arange(side, dtype=np.int64) - (side - 1)
        moments.append(int((ranks.sum(axis=others, dtype=np.int64) * arms).sum()))
    order = sorted(range(3), key=lambda axis: (ranks.shape[axis], abs(moments[axis])))
    flips = tuple(slice(None, None, -1 if moments[axis] > 0 else 1) for axis in order)
    return ranks.transpose(order)[flips]


class _Groups:
    """Names that belong together, directly or through others."""

    def __init__(self) -> None:
        self._group: dict[str, set[str]] = {}

    def join(self, left: str, right: str) -> None:
        """Make the groups of two names one."""
        both = self._group.get(left, {left}) | self._group.get(right, {right})
        self._group.update(dict.fromkeys(both, both))

    def members(self) -> list[list[str]]:
        """List the groups, sorted."""
        unique = {id(group): group for group in self._group.values()}
        return sorted(sorted(group) for group in unique.values() if len(group) > 1)
