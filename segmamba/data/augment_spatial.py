"""Augmentation of places: where a voxel comes from.

Mirror images and quarter turns alone are exact. With zoom, rotation or elastic deformation, all
moves share one interpolation.

Legend: B batch, C channels, (D, H, W) = NIfTI (x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.augmentation_draws import AugmentationDraws
from segmamba.data.feed import to_device


def flip_and_turn(
    image: torch.Tensor, label: torch.Tensor, drawn: AugmentationDraws
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror one patch and turn it in the axial plane, exactly.

    Args:
        image: (C, D, H, W).
        label: (D, H, W).
        drawn: The patch's draws.

    Returns:
        (image, label), of the same shapes.
    """
    axes = [axis for axis, flip in zip((-3, -2, -1), drawn.flips, strict=True) if flip]
    turns = _quarter_turns(drawn, label.shape)
    return (
        torch.rot90(image.flip(axes), turns, (-3, -2)),
        torch.rot90(label.flip(axes), turns, (-3, -2)),
    )


def must_interpolate(drawn: AugmentationDraws) -> bool:
    """Whether a patch's moves need interpolation.

    Args:
        drawn: The patch's draws.

    Returns:
        True for a zoom, a rotation or an elastic deformation.
    """
    return drawn.scale != 1 or any(drawn.rotation_degrees) or drawn.elastic_voxels > 0


def warp(
    image: torch.Tensor, label: torch.Tensor, draws: Sequence[AugmentationDraws]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make all moves of a batch about the patches' centres in one interpolation.

    Mirror images and quarter turns are included. A scale above 1 enlarges. What comes from outside
    the patch is 0.

    Args:
        image: float (B, C, D, H, W).
        label: uint8 (B, D, H, W).
        draws: One for each patch.

    Returns:
        (image, label): the image by trilinear interpolation, the label by nearest neighbour.
    """
    size, device = image.shape[2:], image.device
    theta = to_device(np.stack([_matrix(drawn, size) for drawn in draws]), device)  # (B, 3, 3)
    grid = _sampling_grid(theta, size)
    if elastic_rows := [row for row, drawn in enumerate(draws) if drawn.elastic_voxels]:
        displacements = _elastic([draws[row] for row in elastic_rows], size, device)
        half_sides = to_device(np.array(size[::-1]) / 2, device)
        rows = to_device(np.array(elastic_rows), device)
        grid = grid.index_add(0, rows, displacements.flip(-1) / half_sides)
    grid = grid.to(image.dtype)
    image = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    label = F.grid_sample(label[:, None].to(image.dtype), grid, mode="nearest", align_corners=False)
    return image, label[:, 0].to(torch.uint8)


def _sampling_grid(theta: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, D, H, W, 3): where each voxel comes from, as (z, y, x) in half sides.

    F.affine_grid without translation and without a matrix product, which autocast would round to a
    tenth of a voxel and more.
    """
    x, y, z = (torch.linspace(1 / n - 1, 1 - 1 / n, n, device=theta.device) for n in size)
    along_z, along_y, along_x = theta[:, None, None, None].unbind(-1)  # (B, 1, 1, 1, 3) each
    return x[:, None, None, None] * along_x + (y[:, None, None] * along_y + z[:, None] * along_z)


def _quarter_turns(drawn: AugmentationDraws, size: Sequence[int]) -> int:
    """Quarter turns in the axial plane; where D != H only half turns are done."""
    return drawn.quarter_turns if size[0] == size[1] else drawn.quarter_turns // 2 * 2


def _mirror_and_turn(drawn: AugmentationDraws, size: Sequence[int]) -> np.ndarray:
    """(3, 3) in (x, y, z): what `flip_and_turn` does.

    The matrix leads from the new patch to the old one, about the centre.
    """
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    return np.diag([-1.0 if flip else 1.0 for flip in drawn.flips]) @ np.linalg.matrix_power(
        quarter, _quarter_turns(drawn, size)
    )


def _matrix(drawn: AugmentationDraws, size: Sequence[int]) -> np.ndarray:
    """(3, 3): from coordinates in the new patch to coordinates in the old one.

    Both are (z, y, x) in half sides of the patch.
    """
    turn = _mirror_and_turn(drawn, size)
    for axis, degrees in enumerate(drawn.rotation_degrees):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        first, second = [a for a in range(3) if a != axis]
        about = np.eye(3)
        about[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
        turn = turn @ about
    half = np.asarray(size) / 2
    # Voxels are isotropic, half sides are not.
    matrix = (turn / drawn.scale * half) / half[:, None]
    return matrix[::-1, ::-1]


def _elastic(
    draws: Sequence[AugmentationDraws], size: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Displacements in voxels, (n, D, H, W, 3) as (x, y, z).

    Cubic B-splines through control points drawn from a normal distribution: the free-form
    deformation of Rueckert et al. 1999 (IEEE TMI 18:8). `elastic_voxels` is the standard deviation
    at the control points. `elastic_spacing` is their distance, a setting and so the same in all
    draws.
    """
    bases = [_spline_basis(n, draws[0].elastic_spacing) for n in size]
    controls = [3, *(basis.shape[1] for basis in bases)]
    points = [
        np.random.default_rng(drawn.field_seed).normal(0, drawn.elastic_voxels, controls)
        for drawn in draws
    ]
    turned = np.stack(
        [
            np.tensordot(_mirror_and_turn(drawn, size), p, 1)
            for drawn, p in zip(draws, points, strict=True)
        ]
    )
    return torch.einsum(
        "ncijk,xi,yj,zk->nxyzc", *(to_device(array, device) for array in (turned, *bases))
    )


def _spline_basis(side: int, spacing: float) -> np.ndarray:
    """(side, control points): weights of uniform cubic B-splines at the centres of `side` voxels.

    The control points are `spacing` voxels apart. Rows add to 1.
    """
    place = (np.arange(side) + 0.5) / spacing
    distance = np.abs(place[:, None] - np.arange(-1, math.ceil(side / spacing) + 2))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))
