"""From the box that a network sees to the grid of the source.

Three grids are nested. The source has N voxels along an axis, the working grid has M over the same
extent, edges on edges, and the box holds `length` of them from `offset` on. Interpolation is
trilinear, one axis after the other, with the rule of F.interpolate with align_corners=False: the
source's voxel i lies at

    u(i) = (i + 1/2) M / N - 1/2,   clamped to [0, M - 1],

on the working grid, and takes 1 - (u - floor u) of the voxel floor u and u - floor u of the next.

Legend: K channels, (x, y, z) a volume; the box is in voxels of the working grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Box = tuple[slice, ...]
"""Slices of the source's grid along x, y and z."""


class HasGrids(Protocol):
    """What says where a box lies: a PreparedCase of the cache, or Grids."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the box."""
        ...

    @property
    def offset(self) -> tuple[int, ...]:
        """The box's first voxel in the working grid."""
        ...

    @property
    def working_shape(self) -> tuple[int, ...]:
        """Voxels of the working grid."""
        ...

    @property
    def source_shape(self) -> tuple[int, ...]:
        """Voxels of the source."""
        ...


@dataclass(frozen=True)
class Grids:
    """Where the box around the brain lies; the fields are those of a PreparedCase."""

    shape: tuple[int, ...]
    """Voxels of the box."""
    offset: tuple[int, ...]
    """The box's first voxel in the working grid."""
    working_shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    source_spacing_mm: tuple[float, ...]
    source_affine: tuple[tuple[float, ...], ...]
    """Rows of the affine of the source in canonical orientation."""


def source_box(grids: HasGrids) -> Box:
    """The part of the source's grid outside which nothing of the box arrives.

    Args:
        grids: Where the box lies.

    Returns:
        Slices that hold every voxel whose trilinear interpolation reads the box.
    """
    slices = []
    for start, side, working, source in zip(
        grids.offset, grids.shape, grids.working_shape, grids.source_shape, strict=True
    ):
        if working == source:
            slices.append(slice(start, start + side))
            continue
        scale = source / working
        first = max(0, int((start - 1) * scale))
        slices.append(slice(first, min(source, int((start + side + 1) * scale) + 1)))
    return tuple(slices)


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box around several."""
    return tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*boxes, strict=True)
    )


def to_source(array: Tensor, grids: HasGrids, box: Box) -> Tensor:
    """Interpolate what lies on the box to a part of the source's grid.

    Zeros come in from outside the box. The result is that of F.interpolate of the whole volumes,
    without making them, and the input itself where the grids agree.

    Args:
        array: Float (K, x, y, z) on the box.
        grids: Where the box lies.
        box: The part of the source's grid.

    Returns:
        Float (K, x', y', z') on `box`.
    """
    for axis, side in enumerate(box):
        array = _along(array, grids, axis, side)
    return array


def coverage(grids: HasGrids, box: Box, device: torch.device) -> Tensor:
    """How much of each voxel of the source comes from the box; the rest is background.

    Args:
        grids: Where the box lies.
        box: The part of the source's grid.
        device: Where the result lies.

    Returns:
        float32 (x, y, z) on `box`, in [0, 1].
    """
    return to_source(torch.ones((1, *grids.shape), device=device), grids, box)[0]


def _along(array: Tensor, grids: HasGrids, axis: int, side: slice) -> Tensor:
    """(K, x, y, z) with one spatial axis interpolated to `side` of the source's grid."""
    start, length = grids.offset[axis], grids.shape[axis]
    same_grid = grids.working_shape[axis] == grids.source_shape[axis]
    if same_grid and (side.start, side.stop) == (start, start + length):
        return array
    weights = _weights(grids, axis, side, array.device)
    return torch.tensordot(weights, array, dims=([1], [axis + 1])).movedim(0, axis + 1)


def _weights(grids: HasGrids, axis: int, side: slice, device: torch.device) -> Tensor:
    """float32 (voxels of `side`, voxels of the box): linear weights along one axis.

    The outermost voxel is repeated at the border of the working grid.
    """
    start, length = grids.offset[axis], grids.shape[axis]
    working, source = grids.working_shape[axis], grids.source_shape[axis]
    voxels = torch.arange(side.start, side.stop, device=device, dtype=torch.float64)
    centre = ((voxels + 0.5) * (working / source) - 0.5).clamp(0, working - 1)
    low = centre.floor()
    share = (centre - low).float()
    weights = torch.zeros((len(centre), working + 1), device=device)
    rows = torch.arange(len(centre), device=device)
    weights[rows, low.long()] += 1 - share
    weights[rows, low.long() + 1] += share
    return weights[:, start : start + length]
