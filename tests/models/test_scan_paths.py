"""A path visits every voxel once, in the documented order, whatever the volume's sides are."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.describe import fake_network
from segmamba.models.mamba import MambaBlock, ScanDirection, scan_directions
from segmamba.models.mixers import mixer_block
from segmamba.models.scan_paths import order_on, path_order
from tests.tiny import TINY

PATHS = ("snake", "morton", "hilbert")
VOLUMES = [(1, 1, 1), (8, 8, 8), (8, 8, 4), (6, 6, 6), (7, 5, 3), (1, 4, 2), (3, 16, 1), (2, 1, 9)]
ORDERS = list(itertools.permutations(range(3)))
SMALL = TINY.changed({"model.base_channels": 4, "model.mamba_depths": (1, 1, 1)}).model


def visited(path, sides, axes=(0, 1, 2), backwards=False):
    """The (D, H, W) coordinates of the voxels in the order of a direction, (L, 3)."""
    tokens = torch.tensor([list(itertools.product(*map(range, sides)))])
    return ScanDirection(axes, backwards, path).sequence(tokens, sides)[0].numpy()


def hops(voxels):
    """How far apart successive voxels are, in steps along the axes."""
    return np.abs(np.diff(voxels, axis=0)).sum(1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sides", VOLUMES)
def test_every_path_visits_every_voxel_once_and_writes_back_to_it(path, sides):
    tokens = torch.randn(2, int(np.prod(sides)), 3)
    for axes, backwards in itertools.product(ORDERS, (False, True)):
        direction = ScanDirection(axes, backwards, path)
        sequence = direction.sequence(tokens, sides)
        assert torch.equal(sequence.sort(1)[0], tokens.sort(1)[0])
        assert torch.equal(direction.undo(sequence, sides), tokens)


@pytest.mark.parametrize("sides", VOLUMES)
@pytest.mark.parametrize("axes", ORDERS)
def test_successive_voxels_of_a_snake_touch_in_every_volume(axes, sides):
    assert (hops(visited("snake", sides, axes)) == 1).all()


def test_a_snake_runs_along_its_last_axis_and_turns():
    assert visited("snake", (2, 2, 3)).tolist() == [
        *([0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 2], [0, 1, 1], [0, 1, 0]),
        *([1, 1, 0], [1, 1, 1], [1, 1, 2], [1, 0, 2], [1, 0, 1], [1, 0, 0]),
    ]


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_successive_voxels_of_a_hilbert_curve_touch_in_a_cube_of_a_power_of_two(side):
    assert (hops(visited("hilbert", (side,) * 3)) == 1).all()


def test_a_morton_path_interleaves_the_bits_of_the_coordinates():
    wanted = sorted(
        itertools.product(range(8), range(8), range(8)),
        key=lambda v: [v[axis] >> bit & 1 for bit in (2, 1, 0) for axis in range(3)],
    )
    assert visited("morton", (8, 8, 8)).tolist() == [list(voxel) for voxel in wanted]


@pytest.mark.parametrize("path", ["morton", "hilbert"])
def test_a_path_fills_one_octant_before_the_next(path):
    for part in np.split(visited(path, (8, 8, 8)), 8):
        assert len(np.unique(part // 4, axis=0)) == 1


@pytest.mark.parametrize("path", ["morton", "hilbert"])
@pytest.mark.parametrize("sides", [(8, 8, 4), (6, 5, 7), (1, 8, 3)])
def test_a_volume_is_read_as_the_part_of_a_cube_that_it_is(path, sides):
    inside = [v for v in visited(path, (8, 8, 8)).tolist() if all(np.less(v, sides))]
    assert visited(path, sides).tolist() == inside


@pytest.mark.parametrize("path", PATHS)
def test_directions_turn_a_path_over_and_around(path):
    forward, backward, across = scan_directions("tri", "hwd", path)
    assert [d.axes for d in (forward, backward, across)] == [(1, 2, 0), (1, 2, 0), (2, 0, 1)]
    sides = (3, 4, 6)
    straight = visited(path, sides, forward.axes)
    assert visited(path, sides, backward.axes, True).tolist() == straight[::-1].tolist()
    # the axes of a direction are those of the path: the turned volume is read as it stands
    turned = visited(path, tuple(sides[axis] for axis in forward.axes))
    assert straight[:, list(forward.axes)].tolist() == turned.tolist()


@pytest.mark.parametrize("path", PATHS)
def test_a_forward_scan_along_a_path_sees_the_voxels_before_on_it(path):
    torch.manual_seed(0)
    config = ModelConfig(scan_path=path, d_state=4, d_conv=12, scan="portable")
    block, sides = MambaBlock(8, config).double(), (2, 3, 2)
    x = torch.randn(1, 8, *sides, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: block(v).flatten(2).sum((0, 1)), x)
    seen = jacobian.flatten(3).abs().sum((1, 2)) > 0
    order = path_order(path, (0, 1, 2), False, sides)[0].copy()
    assert torch.equal(seen[order][:, order], torch.ones(12, 12).tril().bool())


@pytest.mark.parametrize("path", PATHS)
def test_gradients_go_back_along_the_path(path):
    direction, sides = ScanDirection((2, 0, 1), True, path), (2, 3, 5)
    tokens = torch.randn(2, 30, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: direction.sequence(t, sides).square(), tokens)
    assert torch.autograd.gradcheck(lambda t: direction.undo(t, sides).square(), tokens)


@pytest.mark.parametrize("path", PATHS)
def test_a_network_of_another_path_has_the_same_weights_and_another_prediction(path):
    x, networks = torch.randn(1, 4, 32, 16, 48), []
    for config in (SMALL, dataclasses.replace(SMALL, scan_path=path, scan_order="forward")):
        torch.manual_seed(0)
        networks.append(build_model(config).eval())
    raster, other = networks
    assert all(map(torch.equal, raster.state_dict().values(), other.state_dict().values()))
    with torch.no_grad():
        assert not torch.allclose(raster(x), other(x), atol=1e-4)


def test_a_path_compiles_as_one_graph_with_the_same_gradients_at_more_than_one_size():
    torch.manual_seed(0)
    config = ModelConfig(
        scan_path="hilbert", scan_order="bidirectional", d_state=2, scan="portable"
    )
    block = MambaBlock(8, config).double()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    for sides in ((4, 3, 2), (5, 3, 4)):
        x = torch.randn(2, 8, *sides, dtype=torch.float64)
        want = torch.autograd.grad(block(x).square().mean(), block.parameters())
        got = torch.autograd.grad(compiled(x).square().mean(), block.parameters())
        assert all(map(torch.allclose, got, want))


def test_a_network_that_is_only_described_leaves_no_order_without_values_behind():
    config = dataclasses.replace(SMALL, scan_path="morton")
    with fake_network(config) as model:
        assert model(torch.empty(2, 4, 16, 16, 16)).shape == (2, 4, 16, 16, 16)
    order = order_on(torch.device("cpu"), "morton", (0, 1, 2), False, (4, 4, 4))
    assert type(order) is torch.Tensor and order[0].unique().numel() == 64


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
def test_learned_weights_begin_as_a_sum_and_weigh_each_direction(mixer):
    x, blocks = torch.randn(1, 8, 2, 3, 4), []
    config = ModelConfig(mixer=mixer, scan_order="tri", d_state=4, scan="portable")
    for weights in ("equal", "learned"):
        torch.manual_seed(0)
        blocks.append(mixer_block(8, dataclasses.replace(config, direction_weights=weights)))
    equal, learned = blocks
    y = learned(x)
    assert torch.equal(y, equal(x))
    y.square().sum().backward()
    weights = learned.mamba.direction_weights
    assert weights.shape == (3, 16) and (weights.grad.abs().sum(1) > 0).all()
    with torch.no_grad():
        weights[1:] = 0
        first_alone = learned(x)
        learned.mamba.scans[2].D.fill_(7)
        assert torch.equal(learned(x), first_alone)


@pytest.mark.parametrize("changes", [{}, {"mixer": "conv", "scan_order": "tri"}])
def test_weights_without_directions_are_refused(changes):
    with pytest.raises(UserError, match=r"model\.direction_weights = 'learned': needs several"):
        ModelConfig(direction_weights="learned", **changes)
