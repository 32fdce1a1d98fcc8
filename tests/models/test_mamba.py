"""A Mamba block reads the voxels in the order that its configuration names.

It writes each result back to its voxel.
"""

import dataclasses
import itertools

import pytest
import torch

from segmamba.config import ModelConfig
from segmamba.models.mamba import MambaBlock, ScanDirection, scan_directions

SIDES = (2, 3, 5)
CONFIG = ModelConfig(base_channels=4, d_state=4)


def coordinates(sides):
    """The (D, H, W) coordinates of every voxel, as tokens (1, L, 3) in memory order."""
    return torch.tensor([list(itertools.product(*map(range, sides)))], dtype=torch.float32)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_direction_visits_the_voxels_with_its_last_axis_fastest(axes, backwards):
    visited = ScanDirection(axes, backwards).sequence(coordinates(SIDES), SIDES)[0].int().tolist()
    slow, middle, fast = axes
    wanted = []
    for i, j, k in itertools.product(range(SIDES[slow]), range(SIDES[middle]), range(SIDES[fast])):
        voxel = [0, 0, 0]
        voxel[slow], voxel[middle], voxel[fast] = i, j, k
        wanted.append(voxel)
    assert visited == (wanted[::-1] if backwards else wanted)


@pytest.mark.parametrize("sides", [(1, 1, 1), (8, 8, 4), (6, 6, 6), (7, 5, 3), (1, 4, 2)])
@pytest.mark.parametrize("axes", ["dhw", "wdh", "hwd"])
def test_tri_writes_every_result_back_to_its_voxel_at_every_size(axes, sides):
    tokens = coordinates(sides)
    for direction in scan_directions("tri", axes):
        assert torch.equal(direction.undo(direction.sequence(tokens, sides), sides), tokens)


def test_tri_goes_forwards_backwards_and_across_slices():
    forward, backward, across = scan_directions("tri", "dhw")
    tokens = coordinates(SIDES)
    assert torch.equal(forward.sequence(tokens, SIDES), tokens)
    assert torch.equal(backward.sequence(tokens, SIDES), tokens.flip(1))
    # the same pixel of every slice, then the next
    first = across.sequence(tokens, SIDES)[0, :3].int().tolist()
    assert first == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert scan_directions("bidirectional", "dhw") == [forward, backward]
    assert scan_directions("forward", "dhw") == [forward]


def influence(order):
    """(i, j): whether voxel j changes voxel i's result, in a Mamba block over a 2x2x2 volume."""
    torch.manual_seed(0)
    block = MambaBlock(8, dataclasses.replace(CONFIG, scan_order=order)).double()
    x = torch.randn(1, 8, 2, 2, 2, dtype=torch.float64)
    # (8 voxels, *x.shape)
    jacobian = torch.autograd.functional.jacobian(lambda v: block(v).flatten(2).sum((0, 1)), x)
    return jacobian.flatten(3).abs().sum((1, 2)) > 0


def test_a_forward_scan_sees_the_voxels_before_and_a_bidirectional_scan_sees_all():
    assert torch.equal(influence("forward"), torch.ones(8, 8).tril().bool())
    assert influence("bidirectional").all()
    assert influence("tri").all()


def test_every_direction_has_its_own_scan_and_shares_the_projections():
    def names(order):
        block = MambaBlock(8, dataclasses.replace(CONFIG, scan_order=order))
        return {name for name, _ in block.named_parameters()}

    own = {
        "conv1d.weight",
        "conv1d.bias",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "A_log",
        "D",
    }
    assert names("tri") - names("bidirectional") == {f"mamba.scans.2.{name}" for name in own}
    assert {name for name in names("tri") if "_proj" in name and "scans" not in name} == {
        "mamba.in_proj.weight",
        "mamba.out_proj.weight",
    }


def test_step_sizes_begin_between_a_thousandth_and_a_tenth():
    step = torch.nn.functional.softplus(MambaBlock(64, CONFIG).mamba.scans[0].dt_proj.bias)
    assert 1e-3 <= step.min() < 2e-3 and 5e-2 < step.max() <= 0.1 + 1e-6
