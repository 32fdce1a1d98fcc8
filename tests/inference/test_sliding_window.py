"""Windows cover a volume, and their weighted mean is what the whole volume gives."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmamba.inference.sliding_window import gaussian_weights, predict_windows, window_starts


@given(st.integers(1, 300), st.integers(1, 128), st.floats(0, 0.9))
def test_windows_cover_every_voxel_with_the_overlap_asked_for(side, window, overlap):
    starts = window_starts(side, window, overlap)
    assert starts[0] == 0 and (side <= window or starts[-1] == side - window)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < s <= max(1, int(window * (1 - overlap))) for s in steps)


def predict(model, image, window, **options):
    return predict_windows(
        lambda x: model(x).softmax(1),
        image,
        window,
        **{"overlap": (0.5,) * 3, "batch_size": 2} | options,
    )


def local_model(x):
    """Looks at each voxel alone, so windows and whole volumes must agree."""
    return torch.cat([x[:, :1], x[:, 1:2] * 2, -x[:, 2:3], x[:, 3:] + 0.5], 1)


@pytest.mark.parametrize("shape", [(32, 32, 32), (40, 24, 37), (8, 20, 33), (16, 16, 16)])
def test_windows_of_a_voxelwise_model_give_what_the_whole_volume_gives(shape):
    image = torch.randn(4, *shape)
    out = predict(local_model, image, (16, 16, 16))
    assert out.shape == (4, *shape)
    assert torch.allclose(out, local_model(image[None])[0].softmax(0), atol=1e-5)


def test_probabilities_sum_to_one():
    out = predict(local_model, torch.randn(4, 40, 33, 20), (16, 16, 16), batch_size=3)
    assert torch.allclose(out.sum(0), torch.ones(out.shape[1:]), atol=1e-5)


def test_the_middle_of_a_window_weighs_most():
    weights = gaussian_weights((16, 32, 8), torch.device("cpu"))
    assert (
        weights.shape == (16, 32, 8)
        and weights.max() == 1
        and weights[7, 15, 3] == 1
        and weights[0, 0, 0] == pytest.approx(1e-3)
    )
