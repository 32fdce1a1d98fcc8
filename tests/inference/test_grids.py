"""Boxes on the working grid against interpolating whole volumes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.inference.grids import Grids, coverage, source_box, to_source, union


def grids(offset, shape, working, source):
    return Grids(
        shape=shape,
        offset=offset,
        working_shape=working,
        source_shape=source,
        source_spacing_mm=(1, 1, 1),
        source_affine=(),
    )


def whole(array, where):
    full = torch.zeros(len(array), *where.working_shape)
    full[
        (slice(None), *(slice(o, o + s) for o, s in zip(where.offset, where.shape, strict=True)))
    ] = array
    return full


AXIS = st.integers(2, 12).flatmap(
    lambda working: st.tuples(st.integers(0, working - 1), st.just(working), st.integers(1, 30))
)


@settings(deadline=None)
@given(st.tuples(AXIS, AXIS, AXIS), st.integers(0, 10))
def test_a_box_arrives_where_interpolating_the_whole_volume_brings_it(axes, seed):
    offset, working, source = zip(*axes, strict=True)
    where = grids(
        offset, tuple(w - o for o, w in zip(offset, working, strict=True)), working, source
    )
    array = torch.from_numpy(np.random.default_rng(seed).random((2, *where.shape), np.float32))
    expected = whole(array, where)
    if working != source:
        expected = F.interpolate(expected[None], size=source, mode="trilinear")[0]
    box = source_box(where)
    got = torch.zeros_like(expected)
    got[(slice(None), *box)] = to_source(array, where, box)
    assert torch.allclose(got, expected, atol=1e-5), "nothing of the box lies outside source_box"


def test_where_the_grids_agree_the_box_is_the_box():
    where = grids((2, 0, 3), (4, 5, 6), (9, 9, 9), (9, 9, 9))
    array = torch.randn(1, 4, 5, 6)
    assert source_box(where) == (slice(2, 6), slice(0, 5), slice(3, 9))
    assert to_source(array, where, source_box(where)) is array
    wider = to_source(array, where, (slice(0, 9), slice(0, 9), slice(0, 9)))
    assert torch.equal(wider, whole(array, where))


def test_coverage_is_one_inside_and_falls_to_zero_over_a_voxel_of_the_working_grid():
    where = grids((4, 4, 4), (4, 4, 4), (12, 12, 12), (24, 24, 24))
    covered = coverage(where, (slice(0, 24),) * 3, torch.device("cpu"))
    assert (
        covered[9:15, 9:15, 9:15].min() == pytest.approx(1)
        and covered[:7].max() == 0
        and 0 < covered[7, 12, 12] < 1
    )


def test_union_is_the_box_around_all():
    assert union([(slice(1, 4), slice(0, 2)), (slice(3, 9), slice(1, 2))]) == (
        slice(1, 9),
        slice(0, 2),
    )
