"""Where a voxel comes from: mirror images and quarter turns alone are exact; with zoom, rotation or elastic deformation all share one
interpolation.

Legend: B batch, C channels, (D, H, W) = NIfTI (x, y, z); `plan` is a segmamba.data.augment.Plan.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.feed import sent


def flip_and_turn(image, label, plan):
    """One patch, image (C, D, H, W) and label (D, H, W), mirrored and turned in the axial plane; exact."""
    axes = [axis for axis, flip in zip((-3, -2, -1), plan.flips, strict=True) if flip]
    return tuple(
        torch.rot90(t.flip(axes), _turns(plan, label.shape), (-3, -2)) for t in (image, label)
    )


def warps(plan):
    """Whether the plan needs interpolation."""
    return plan.scale != 1 or any(plan.rotation_degrees) or plan.elastic_voxels > 0


def warp(image, label, plans):
    """All of a plan's moves about the patch's centre in one interpolation, mirror images and quarter turns too: trilinear for image,
    nearest for label.

    image: float (B, C, D, H, W), label: uint8 (B, D, H, W). A scale above 1 enlarges. What comes from outside the patch is 0.
    """
    size, device = image.shape[2:], image.device
    theta = sent(np.stack([_matrix(plan, size) for plan in plans]), device)  # (B, 3, 3)
    grid = _places(theta, size)
    if bent := [row for row, plan in enumerate(plans) if plan.elastic_voxels]:
        half = sent(np.array(size[::-1]) / 2, device)
        grid = grid.index_add(
            0,
            sent(np.array(bent), device),
            _elastic([plans[row] for row in bent], size, device).flip(-1) / half,
        )
    grid = grid.to(image.dtype)
    image = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    label = F.grid_sample(label[:, None].to(image.dtype), grid, mode="nearest", align_corners=False)
    return image, label[:, 0].to(torch.uint8)


def _places(theta, size):
    """(B, D, H, W, 3): where each voxel comes from, as (z, y, x) in half sides. F.affine_grid without translation and without a matrix
    product, which autocast would round to a tenth of a voxel and more.
    """
    x, y, z = (torch.linspace(1 / n - 1, 1 - 1 / n, n, device=theta.device) for n in size)
    along_z, along_y, along_x = theta[:, None, None, None].unbind(-1)  # (B, 1, 1, 1, 3) each
    return x[:, None, None, None] * along_x + (y[:, None, None] * along_y + z[:, None] * along_z)


def _turns(plan, size):
    """Quarter turns in the axial plane; where D != H only half turns are done."""
    return plan.quarter_turns if size[0] == size[1] else plan.quarter_turns // 2 * 2


def _mirror_and_turn(plan, size):
    """(3, 3) in (x, y, z): what `flip_and_turn` does, from the new patch to the old one about the centre."""
    quarter = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    return np.diag([-1.0 if flip else 1.0 for flip in plan.flips]) @ np.linalg.matrix_power(
        quarter, _turns(plan, size)
    )


def _matrix(plan, size):
    """(3, 3): from coordinates in the new patch to coordinates in the old one, both (z, y, x) in half sides of the patch."""
    turn = _mirror_and_turn(plan, size)
    for axis, degrees in enumerate(plan.rotation_degrees):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        first, second = [a for a in range(3) if a != axis]
        about = np.eye(3)
        about[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
        turn = turn @ about
    half = np.asarray(size) / 2
    matrix = (turn / plan.scale * half) / half[:, None]  # voxels are isotropic, half sides are not
    return matrix[::-1, ::-1]


def _elastic(plans, size, device):
    """Displacements in voxels, (n, D, H, W, 3) as (x, y, z): cubic B-splines through control points drawn from a normal distribution.

    The free-form deformation of Rueckert et al. 1999 (IEEE TMI 18:8). `elastic_voxels` is the standard deviation at the control
    points, `elastic_spacing` their distance, a setting and so the same in all plans.
    """
    bases = [_spline_basis(n, plans[0].elastic_spacing) for n in size]
    controls = [3, *(basis.shape[1] for basis in bases)]
    points = [
        np.random.default_rng(plan.field_seed).normal(0, plan.elastic_voxels, controls)
        for plan in plans
    ]
    points = np.stack(
        [
            np.tensordot(_mirror_and_turn(plan, size), p, 1)
            for plan, p in zip(plans, points, strict=True)
        ]
    )
    return torch.einsum(
        "ncijk,xi,yj,zk->nxyzc", *(sent(array, device) for array in (points, *bases))
    )


def _spline_basis(side, spacing):
    """(side, control points): weights of uniform cubic B-splines, `spacing` voxels apart, at the centres of `side` voxels; rows add to 1."""
    place = (np.arange(side) + 0.5) / spacing
    distance = np.abs(place[:, None] - np.arange(-1, math.ceil(side / spacing) + 2))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))
