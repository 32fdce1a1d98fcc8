"""Where a voxel comes from: mirror images and quarter turns are exact; zoom, rotation and elastic deformation share one interpolation.

Legend: B batch, C channels, (D, H, W) = NIfTI (x, y, z); `plan` is a segmamba.data.augment.Plan.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


def flip_and_turn(image, label, plan):
    """One patch, image (C, D, H, W) and label (D, H, W), mirrored and turned in the axial plane. Where D != H only half turns are done."""
    axes = [axis for axis, flip in zip((-3, -2, -1), plan.flips, strict=True) if flip]
    turns = plan.quarter_turns if image.shape[-3] == image.shape[-2] else plan.quarter_turns // 2 * 2
    return tuple(torch.rot90(t.flip(axes), turns, (-3, -2)) for t in (image, label))


def warps(plan):
    """Whether the plan needs interpolation."""
    return plan.scale != 1 or any(plan.rotation_degrees) or plan.elastic_voxels > 0


def warp(image, label, plans):
    """Zoom, rotation and elastic deformation about the patch's centre, in one interpolation: trilinear for image, nearest for label.

    image: float (B, C, D, H, W), label: uint8 (B, D, H, W). A scale above 1 enlarges. What comes from outside the patch is 0.
    """
    size = image.shape[2:]
    theta = torch.tensor(np.stack([_matrix(plan, size) for plan in plans]), device=image.device, dtype=torch.float32)  # (B, 3, 4)
    grid = F.affine_grid(theta, [len(plans), 1, *size], align_corners=False)  # (B, D, H, W, 3): where each voxel comes from, as (z, y, x)
    if any(plan.elastic_voxels for plan in plans):
        half = torch.tensor(size, device=image.device).flip(0) / 2
        grid = grid + torch.stack([_elastic(plan, size, image.device) for plan in plans]).flip(-1) / half
    grid = grid.to(image.dtype)
    image = F.grid_sample(image, grid, mode="bilinear", align_corners=False)
    label = F.grid_sample(label[:, None].to(image.dtype), grid, mode="nearest", align_corners=False)
    return image, label[:, 0].to(torch.uint8)


def _matrix(plan, size):
    """(3, 4) for affine_grid: from coordinates in the new patch to coordinates in the old one, both (z, y, x) in half sides of the patch."""
    turn = np.eye(3)
    for axis, degrees in enumerate(plan.rotation_degrees):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        first, second = [a for a in range(3) if a != axis]
        about = np.eye(3)
        about[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
        turn = turn @ about
    half = np.asarray(size) / 2
    matrix = (turn / plan.scale * half) / half[:, None]  # voxels are isotropic, half sides are not
    return np.pad(matrix[::-1, ::-1], [(0, 0), (0, 1)])


def _elastic(plan, size, device):
    """Displacement in voxels, (D, H, W, 3) as (x, y, z): a cubic B-spline through control points drawn from a normal distribution.

    The free-form deformation of Rueckert et al. 1999 (IEEE TMI 18:8). `elastic_voxels` is the standard deviation at the control
    points, `elastic_spacing` their distance.
    """
    if plan.elastic_voxels == 0:
        return torch.zeros(*size, 3, device=device)
    bases = [torch.tensor(_spline_basis(n, plan.elastic_spacing), device=device, dtype=torch.float32) for n in size]
    points = np.random.default_rng(plan.field_seed).normal(0, plan.elastic_voxels, [3, *(basis.shape[1] for basis in bases)])
    points = torch.tensor(points, device=device, dtype=torch.float32)
    return torch.einsum("cijk,xi,yj,zk->xyzc", points, *bases)


def _spline_basis(side, spacing):
    """(side, control points): weights of uniform cubic B-splines, `spacing` voxels apart, at the centres of `side` voxels; rows add to 1."""
    place = (np.arange(side) + 0.5) / spacing
    distance = np.abs(place[:, None] - np.arange(-1, math.ceil(side / spacing) + 2))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))
