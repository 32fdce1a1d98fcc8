"""The surface of a mask as elements: where each lies and how large it is.

An element lies at every corner between voxels where the 2x2x2 voxels around it are neither all
inside nor all outside. It has the area that marching cubes gives the surface between their centres.
A percentile of surface distances is thus a share of the surface, and not of voxels, of which a
slanted surface has more than a flat one. The official scorer of BraTS 2023 measures so, with
DeepMind's surface-distance; a test compares the areas and the percentile with theirs.

Legend: E elements; a neighbourhood is a number from 0 to 255, one bit for each of CORNERS.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Corner = tuple[int, ...]
"""A corner of the unit cube: 0 or 1 along x, y, z."""

CORNERS: tuple[Corner, ...] = tuple(itertools.product((0, 1), repeat=3))
INSIDE = 255
"""The neighbourhood of a corner between eight voxels of the mask."""


def surface_elements(
    mask: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Find the elements of a mask's surface.

    Args:
        mask: bool (x, y, z).
        spacing_mm: Voxel size along each axis.

    Returns:
        Places, int (E, 3), of which (i, j, k) is the corner before voxel (i, j, k); and areas in
        mm2, (E,).
    """
    padded = np.pad(mask, 1).view(np.uint8)
    sides = [side - 1 for side in padded.shape]
    code = np.zeros(sides, np.uint8)
    for bit, corner in enumerate(CORNERS):
        window = tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))
        code += padded[window] << bit
    border = (code != 0) & (code != INSIDE)
    return np.argwhere(border), element_areas(tuple(map(float, spacing_mm)))[code[border]]


@lru_cache(8)
def element_areas(spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Return the area of the surface within each of the 256 neighbourhoods.

    Args:
        spacing_mm: Voxel size along each axis.

    Returns:
        Areas in mm2, float (256,).
    """
    x, y, z = spacing_mm
    faces_mm2 = np.array([y * z, x * z, x * y])
    areas = np.zeros(256)
    for code in range(1, INSIDE):
        inside = [corner for bit, corner in enumerate(CORNERS) if code >> bit & 1]
        fewer = (
            inside if len(inside) <= 4 else [corner for corner in CORNERS if corner not in inside]
        )
        areas[code] = sum(
            np.linalg.norm(vector * faces_mm2)
            for group in _joined(fewer)
            for vector in _area_vectors(group)
        )
    return areas


def _joined(corners: Sequence[Corner]) -> list[list[Corner]]:
    """Group the corners that are connected along edges of the cube."""
    groups: list[list[Corner]] = []
    for corner in corners:
        touching = [
            group for group in groups if any(_steps(corner, other).sum() == 1 for other in group)
        ]
        groups = [group for group in groups if group not in touching] + [
            [corner, *itertools.chain(*touching)]
        ]
    return groups


def _area_vectors(group: Sequence[Corner]) -> list[np.ndarray]:
    """Return the polygons of marching cubes around up to four joined corners of a unit cube.

    They separate these corners from the rest, and are given as vectors of their area (up to sign).
    """
    spread = np.ptp(group, axis=0)
    ones = np.ones(3)
    if len(group) == 1:
        return [ones / 8]
    if len(group) == 2:  # an edge: a slanted rectangle
        return [(ones - spread) / 2]
    if len(group) == 3:  # an L: a flat triangle and a slanted trapezium
        return [(ones - spread) / 2, ones * 3 / 8]
    if spread.sum() == 2:  # a face
        return [ones - spread]
    neighbours = [
        [other for other in group if _steps(corner, other).sum() == 1] for corner in group
    ]
    if max(map(len, neighbours)) == 3:  # a corner and all three beside it: a hexagon
        return [ones * 3 / 4]
    ends = [
        (corner, beside[0])
        for corner, beside in zip(group, neighbours, strict=True)
        if len(beside) == 1
    ]
    return [ones / 2, *((ones - _steps(*end)) / 4 for end in ends)]  # a chain of four


def _steps(corner: Corner, other: Corner) -> np.ndarray:
    return np.abs(np.subtract(corner, other))
