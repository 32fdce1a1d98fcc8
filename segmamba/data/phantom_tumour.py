"""The invented disease of the phantom: a glioma.

A glioma has a necrotic core, an enhancing rim, and oedema that follows the white matter. Axes and
lengths are those of `phantom_grid`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from segmamba.data.label_sets import GLIOMA
from segmamba.data.phantom_grid import HEAD_BOX_MM, Grid, smooth_field
from segmamba.data.phantom_head import is_deep_white_matter

NCR, ED, ET = (GLIOMA.number(name) for name in ("NCR", "ED", "ET"))
APART_MM = 30  # the least distance between the centres of two foci
SITE_DRAWS = 5000  # points that are tried for the centre of a focus


@dataclass(frozen=True)
class Focus:
    """One focus of a tumour."""

    centre_mm: tuple[float, ...]
    """From the middle of the head box."""
    radius_mm: float
    """Of the core: the rim and what it encloses."""
    rim_mm: float
    """How thick the rim is."""
    reach_mm: float
    """How far oedema runs from the core along white matter."""
    stretch: np.ndarray
    """(3, 3), a matrix that makes the focus an ellipsoid."""


def plan_tumour(rng: np.random.Generator, spacing_mm: float) -> tuple[list[Focus], bool]:
    """Draw where a tumour lies and what it looks like.

    20 % of the tumours have two or three foci. 15 % do not enhance, as low-grade gliomas.

    Args:
        rng: Draws the tumour.
        spacing_mm: The case's voxel size.

    Returns:
        (foci, whether the tumour enhances).
    """
    enhancing = rng.random() < 0.85
    count = 1 if rng.random() < 0.8 else int(rng.integers(2, 4))
    foci: list[Focus] = []
    for number in range(count):
        share = 1.0 if number == 0 else rng.uniform(0.55, 0.8)
        radius_mm = share * rng.uniform(13, 22)
        rim_mm = min(rng.uniform(4.5, 8), 0.6 * radius_mm)
        foci.append(
            Focus(
                centre_mm=_site(rng, foci),
                radius_mm=radius_mm,
                # A rim thinner than two voxels could not be learned on a coarse grid.
                rim_mm=max(rim_mm, 2.2 * spacing_mm),
                reach_mm=share * rng.uniform(8, 20),
                stretch=np.exp(rng.normal(0, 0.18, (3, 1)))
                * np.linalg.qr(rng.standard_normal((3, 3)))[0],
            )
        )
    return foci, enhancing


def _site(rng: np.random.Generator, others: Sequence[Focus]) -> tuple[float, ...]:
    for _ in range(SITE_DRAWS):
        point_mm = tuple(rng.uniform(-0.5, 0.5, 3) * HEAD_BOX_MM)
        if is_deep_white_matter(point_mm) and all(
            math.dist(point_mm, other.centre_mm) > APART_MM for other in others
        ):
            return point_mm
    raise RuntimeError(f"no site for a tumour in {SITE_DRAWS} draws")


def grow_tumour(
    rng: np.random.Generator,
    grid: Grid,
    head: dict[str, np.ndarray],
    foci: Sequence[Focus],
    *,
    enhancing: bool,
) -> np.ndarray:
    """Fill the voxels of a tumour.

    Oedema runs far in white matter, little in grey matter, and stops at CSF.

    Args:
        rng: Draws the tumour's surface.
        grid: The voxels of the head box.
        head: The anatomy, as `make_head` gives it.
        foci: The plan of the tumour.
        enhancing: Whether the rim enhances.

    Returns:
        Class numbers of GLIOMA, uint8 of the grid's shape.
    """
    lumps = 0.16 * smooth_field(rng, grid, 24)
    bumps = smooth_field(rng, grid, 10)
    uneven = smooth_field(rng, grid, 28)
    passable = head["brain"] & (head["csf"] < 0.6)
    speed = 0.3 + 0.9 * grid.blurred(head["wm"], 2)
    core, rim, oedema = (np.zeros(grid.shape, bool) for _ in range(3))
    for focus in foci:
        distance_mm = _distance_mm(grid, focus)
        outside_mm = distance_mm - focus.radius_mm * (1 + lumps) + bumps
        rim_mm = focus.rim_mm * (1 + 0.25 * uneven + 0.2 * bumps).clip(0.5, 1.8)
        reach_mm = focus.reach_mm * speed * (1 + 0.35 * uneven).clip(0.2, 2)
        core |= (outside_mm < 0) & head["brain"] & (head["depth"] > 2)
        rim |= (outside_mm < 0) & (outside_mm > -rim_mm)
        oedema |= (outside_mm < reach_mm) & passable
    pieces, _ = ndimage.label(core | oedema)
    classes = np.zeros(grid.shape, np.uint8)
    classes[oedema & np.isin(pieces, np.unique(pieces[core]))] = ED
    classes[core] = NCR
    if enhancing:
        classes[core & rim] = ET
    return classes


def _distance_mm(grid: Grid, focus: Focus) -> np.ndarray:
    """From the centre of a focus, in the metric of its ellipsoid; float32 of the grid's shape."""
    offset = grid.offset_mm(focus.centre_mm)
    along = (
        sum(np.float32(m) * o for m, o in zip(row, offset, strict=True)) for row in focus.stretch
    )
    return np.sqrt(sum(component**2 for component in along))
