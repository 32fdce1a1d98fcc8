"""The other diseases of the phantom: a glioma after surgery, and a child's tumour.

Both begin as the glioma of `phantom_tumour`, whose random draws stay as they are. What is added has
random draws of its own.
"""

from collections.abc import Sequence

import numpy as np

from segmamba.data.label_sets import GLIOMA, PEDIATRIC, POST_TREATMENT
from segmamba.data.phantom_grid import Grid, smooth_field
from segmamba.data.phantom_tumour import Focus

NCR, ED, ET = (GLIOMA.number(name) for name in ("NCR", "ED", "ET"))
LEFT_WHOLE = 0.1
"""Share of the patients after treatment who had no resection: RC is empty."""
WITH_CYST = 0.75
"""Share of the children whose tumour has a cyst."""


def resect(
    rng: np.random.Generator, grid: Grid, glioma: np.ndarray, foci: Sequence[Focus]
) -> np.ndarray:
    """Remove the better part of a glioma's first focus, and leave a cavity filled with fluid.

    The cavity reaches from one side, that of the approach, to a wavy plane through the core; what
    lies behind it stays as residual tumour. A thin margin around the core is removed with it.

    Args:
        rng: Draws the operation.
        grid: The voxels of the head box.
        glioma: Class numbers of GLIOMA, uint8 of the grid's shape.
        foci: The plan of the tumour.

    Returns:
        Class numbers of POST_TREATMENT, uint8 of the grid's shape.
    """
    number = POST_TREATMENT.number
    classes = np.zeros_like(glioma)
    for name in ("NCR", "ED", "ET"):
        classes[glioma == GLIOMA.number(name)] = number(POST_TREATMENT.from_glioma[name])
    operated = rng.random() >= LEFT_WHOLE
    approach = rng.standard_normal(3)
    approach /= np.linalg.norm(approach)
    depth = rng.uniform(-0.1, 0.6)
    wavy_mm = 2.5 * smooth_field(rng, grid, 20)
    if not operated:
        return classes
    focus = foci[0]
    offset_mm = grid.offset_mm(focus.centre_mm)
    along_mm = sum(np.float32(a) * o for a, o in zip(approach, offset_mm, strict=True))
    distance_mm = np.sqrt(sum(o**2 for o in offset_mm))
    reach_mm = 1.1 * focus.radius_mm + max(2.0, grid.spacing_mm)
    removed = (distance_mm + wavy_mm < reach_mm) & (along_mm + wavy_mm < depth * focus.radius_mm)
    classes[removed & (glioma > 0)] = number("RC")
    return classes


def of_a_child(
    rng: np.random.Generator, grid: Grid, glioma: np.ndarray, foci: Sequence[Focus]
) -> np.ndarray:
    """Make a child's tumour of a glioma: mostly solid, with patchy enhancement and cysts.

    Args:
        rng: Draws the cysts and the patches.
        grid: The voxels of the head box.
        glioma: Class numbers of GLIOMA, uint8 of the grid's shape.
        foci: The plan of the tumour.

    Returns:
        Class numbers of PEDIATRIC, uint8 of the grid's shape.
    """
    number = PEDIATRIC.number
    patches = smooth_field(rng, grid, 22)
    core = (glioma == NCR) | (glioma == ET)
    classes = np.zeros_like(glioma)
    classes[glioma == ED] = number("ED")
    classes[core] = number("NETC")
    classes[(glioma == ET) & (patches > -0.4)] = number("ET")
    for focus in foci:
        has_cyst, share = rng.random() < WITH_CYST, rng.uniform(0.4, 0.6)
        direction = rng.standard_normal(3)
        direction *= 0.25 * focus.radius_mm / np.linalg.norm(direction)
        x, y, z = (c + d for c, d in zip(focus.centre_mm, direction, strict=True))
        offset_mm = grid.offset_mm((x, y, z))
        # A cyst narrower than four voxels could not be learned on a coarse grid.
        radius_mm = max(share * focus.radius_mm, 2 * grid.spacing_mm)
        if has_cyst:
            inside = np.sqrt(sum(o**2 for o in offset_mm)) < radius_mm * (1 + 0.1 * patches)
            classes[inside & core] = number("CC")
    return classes
