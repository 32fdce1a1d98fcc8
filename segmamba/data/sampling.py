"""Which patch is drawn.

A draw is a pure function of the seed, the epoch, the index within the epoch and, for hard cases,
the probabilities of the cases. Any number of workers and any resumed run therefore draw the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Streams of random numbers. No two of them meet, whatever (seed, epoch, index) is.
CASE_ORDER, CENTRE, AUGMENTATION, CASE, PLACE, MASK, STUDENT, TEACHER, DROPOUT = range(9)


class SampledCase(Protocol):
    """What a draw needs of a case; a `PreparedCase` has it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along x, y and z."""

    @property
    def classes(self) -> tuple[int, ...]:
        """The internal classes of tumour in the case."""

    def voxels(self, kind: str) -> np.ndarray:
        """Flat indices of candidate centres: kind is "tumour", "brain" or "class1" and so on."""


@dataclass(frozen=True)
class PatchId:
    """The place of a patch in a run. All that its random numbers depend on."""

    seed: int
    epoch: int
    """From 1."""
    index: int
    """Within the epoch, from 0."""
    per_epoch: int
    """Patches in an epoch."""

    @property
    def number(self) -> int:
        """Within the run, from 0."""
        return (self.epoch - 1) * self.per_epoch + self.index

    def generator(self, stream: int) -> np.random.Generator:
        """A generator for one purpose; see the module's `generator`."""
        return generator(self.seed, self.epoch, self.index, stream)


@dataclass(frozen=True)
class Draw:
    """Where a patch is cut."""

    case: int
    """Place of the case in the list of cases."""
    centre: tuple[int, ...]
    """Voxel (x, y, z)."""
    on_tumour: bool
    """Whether the centre was drawn from the tumour."""


def generator(seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """A NumPy generator for one patch and one purpose.

    Args:
        seed: The run's seed.
        epoch: From 1.
        index: Of the patch within the epoch, from 0.
        stream: The purpose, one of the constants of this module.

    Returns:
        A generator that no other patch and no other purpose shares.
    """
    return np.random.default_rng([seed, epoch, index, stream])


def draw(
    cases: Sequence[SampledCase],
    patch: PatchId,
    tumour_centre_share: float,
    *,
    balance_classes: bool = False,
    chances: np.ndarray | None = None,
) -> Draw:
    """Draw the case and the centre of a patch.

    Cases come in shuffled passes, so each is seen equally often, unless `chances` are given.
    A case without tumour gives a brain voxel.

    Args:
        cases: The cases to draw from.
        patch: Which patch is drawn.
        tumour_centre_share: Probability of a centre on the tumour.
        balance_classes: Draw the class of a tumour centre first, all classes that the case holds
            being equally likely, and then one of its voxels.
        chances: (cases,), the probability of each case. None draws in shuffled passes.

    Returns:
        The draw.
    """
    if chances is None:
        case = _case_in_passes(len(cases), patch)
    else:
        case = int(patch.generator(CASE).choice(len(cases), p=chances))
    rng = patch.generator(CENTRE)
    on_tumour = bool(rng.random() < tumour_centre_share)
    voxels = cases[case].voxels("tumour" if on_tumour else "brain")
    if len(voxels) == 0:
        on_tumour = not on_tumour
        voxels = cases[case].voxels("tumour" if on_tumour else "brain")
    if balance_classes and on_tumour:
        classes = cases[case].classes
        voxels = cases[case].voxels(f"class{classes[rng.integers(len(classes))]}")
    flat = int(voxels[rng.integers(len(voxels))])
    return Draw(case, tuple(int(v) for v in np.unravel_index(flat, cases[case].shape)), on_tumour)


def draw_anywhere(cases: Sequence[SampledCase], patch: PatchId, size: Sequence[int]) -> Draw:
    """Draw the case and the centre of a patch without any knowledge of the labels.

    Args:
        cases: The cases to draw from, in shuffled passes.
        patch: Which patch is drawn.
        size: Voxels of a patch along x, y and z.

    Returns:
        The draw. All positions of the patch within the volume are equally likely.
    """
    case = _case_in_passes(len(cases), patch)
    room = [max(n - s, 0) + 1 for n, s in zip(cases[case].shape, size, strict=True)]
    starts = patch.generator(PLACE).integers(room)
    centre = tuple(int(start) + s // 2 for start, s in zip(starts, size, strict=True))
    return Draw(case, centre, on_tumour=False)


def _case_in_passes(count: int, patch: PatchId) -> int:
    """Which of `count` cases comes at this place of the shuffled passes."""
    turn, place = divmod(patch.number, count)
    return int(np.random.default_rng([patch.seed, turn, CASE_ORDER]).permutation(count)[place])


def patch_slices(
    shape: Sequence[int], centre: Sequence[int], size: Sequence[int]
) -> tuple[slice, ...]:
    """The window of a patch, moved into the volume where the centre is close to its border.

    Args:
        shape: Voxels of the volume along x, y and z.
        centre: The voxel (x, y, z) to centre the window on.
        size: Voxels of the window along x, y and z.

    Returns:
        A slice for each axis. Where the volume is shorter than the window, the slice starts at 0
        and reaches beyond the end, which takes the whole axis.
    """
    starts = [
        min(max(c - s // 2, 0), max(n - s, 0)) for c, s, n in zip(centre, size, shape, strict=True)
    ]
    return tuple(slice(start, start + s) for start, s in zip(starts, size, strict=True))
