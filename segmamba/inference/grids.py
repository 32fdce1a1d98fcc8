"""From the box that a network sees to the grid of the source.

A `grids` here is whatever has `offset`, `shape`, `working_shape` and `source_shape`: a PreparedCase, or Grids.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grids:
    """Where the box around the brain lies; the fields are those of a PreparedCase."""

    shape: tuple
    offset: tuple
    working_shape: tuple
    source_shape: tuple
    source_spacing_mm: tuple
    source_affine: tuple


def source_box(grids):
    """Slices of the source's grid outside which nothing of the box arrives by trilinear interpolation."""
    slices = []
    for start, side, working, source in zip(
        grids.offset, grids.shape, grids.working_shape, grids.source_shape, strict=True
    ):
        if working == source:
            slices.append(slice(start, start + side))
            continue
        scale = source / working
        slices.append(
            slice(
                max(0, int((start - 1) * scale)), min(source, int((start + side + 1) * scale) + 1)
            )
        )
    return tuple(slices)


def union(boxes):
    """The smallest box around several."""
    return tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*boxes, strict=True)
    )


def to_source(array, grids, box):
    """float (K, x, y, z) on the working box as (K, ...) on `box` of the source's grid, zeros coming in from outside the working box.

    Trilinear, as F.interpolate of the whole volumes with align_corners=False, without making them; the identity where the grids agree.
    """
    for axis, side in enumerate(box):
        array = _along(array, axis + 1, grids, axis, side)
    return array


def coverage(grids, box, device):
    """(x, y, z) on `box` of the source's grid: how much of each voxel comes from the working box, in [0, 1]; the rest is background."""
    return to_source(torch.ones((1, *grids.shape), device=device), grids, box)[0]


def _along(array, dim, grids, axis, side):
    start, length, working, source = (
        grids.offset[axis],
        grids.shape[axis],
        grids.working_shape[axis],
        grids.source_shape[axis],
    )
    if working == source and (side.start, side.stop) == (start, start + length):
        return array
    weights = _interpolation(start, length, working, source, side, array.device)
    return torch.tensordot(weights, array, dims=([1], [dim])).movedim(0, dim)


def _interpolation(start, length, working, source, side, device):
    """(voxels of `side`, voxels of the box): linear weights along one axis, edges on edges, the outermost voxel repeated at the border."""
    centre = (torch.arange(side.start, side.stop, device=device, dtype=torch.float64) + 0.5) * (
        working / source
    ) - 0.5
    centre = centre.clamp(0, working - 1)
    low = centre.floor()
    share = (centre - low).float()
    weights = torch.zeros((len(centre), working + 1), device=device)
    rows = torch.arange(len(centre), device=device)
    weights[rows, low.long()] += 1 - share
    weights[rows, low.long() + 1] += share
    return weights[:, start : start + length]
