"""Which patch is drawn: a pure function of (seed, epoch, index) and, for hard cases, of the cases' chances: any worker count and any resumed
run draws the same."""

from dataclasses import dataclass

import numpy as np

# Streams of random numbers that never meet, whatever (seed, epoch, index) is.
CASE_ORDER, CENTRE, AUGMENTATION, CASE, PLACE, MASK, STUDENT, TEACHER = range(8)


@dataclass(frozen=True)
class Draw:
    """The case (its place in the list), the centre voxel (x, y, z) and whether it was drawn from the tumour."""

    case: int
    centre: tuple
    on_tumour: bool


def generator(seed, epoch, index, stream):
    """A NumPy generator for one patch and one purpose."""
    return np.random.default_rng([seed, epoch, index, stream])


def draw(
    cases,
    seed,
    epoch,
    index,
    per_epoch,
    tumour_centre_share,
    *,
    balance_classes=False,
    chances=None,
):
    """The Draw number `index` of `per_epoch` in epoch `epoch` (from 1).

    Cases come in shuffled passes, so each is seen equally often; with `chances`, a probability for each case, they are drawn by these. A case
    without tumour gives a brain voxel. With `balance_classes` a tumour centre's class is drawn first, each that the case holds being as
    likely as the others, and then one of its voxels.
    """
    if chances is None:
        case = _in_passes(len(cases), seed, epoch, index, per_epoch)
    else:
        case = int(generator(seed, epoch, index, CASE).choice(len(cases), p=chances))
    rng = generator(seed, epoch, index, CENTRE)
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


def draw_anywhere(cases, seed, epoch, index, per_epoch, size):
    """As `draw`, of cases whose labels are not to be known: every place of a patch of `size` voxels is as likely as the others."""
    case = _in_passes(len(cases), seed, epoch, index, per_epoch)
    room = [max(n - s, 0) + 1 for n, s in zip(cases[case].shape, size, strict=True)]
    starts = generator(seed, epoch, index, PLACE).integers(room)
    return Draw(
        case, tuple(int(start) + s // 2 for start, s in zip(starts, size, strict=True)), False
    )


def _in_passes(count, seed, epoch, index, per_epoch):
    """Which of `count` cases comes at this place of the shuffled passes."""
    turn, place = divmod((epoch - 1) * per_epoch + index, count)
    return int(np.random.default_rng([seed, turn, CASE_ORDER]).permutation(count)[place])


def patch_slices(shape, centre, size):
    """Slices of the window of `size` voxels nearest to `centre` that lies inside `shape`; an axis shorter than `size` is taken whole."""
    starts = [
        min(max(c - s // 2, 0), max(n - s, 0)) for c, s, n in zip(centre, size, shape, strict=True)
    ]
    return tuple(slice(start, start + s) for start, s in zip(starts, size, strict=True))
