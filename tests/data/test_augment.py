import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.config import AugmentConfig
from segmamba.data.augment import Plan, augment, plan

OFF = {"flip_probability": 0.0, "rotate90_probability": 0.0, "scale_range": (1.0, 1.0), "brightness": 0.0, "contrast_range": (1.0, 1.0)}


def still(**changes):
    """A Plan that does nothing but what is asked."""
    nothing = {"flips": (False,) * 3, "quarter_turns": 0, "scale": 1.0, "brightness": np.zeros(4), "contrast": np.ones(4)}
    return Plan(**{**nothing, **changes})


def example(shape=(12, 12, 8), batch=2):
    """Images whose first channel holds the label, so that alignment can be seen; a background of zeros around it."""
    torch.manual_seed(0)
    label = torch.zeros(batch, *shape, dtype=torch.uint8)
    label[:, 2:6, 3:9, 1:4] = torch.randint(1, 4, (batch, 4, 6, 3)).to(torch.uint8)
    image = torch.randn(batch, 4, *shape)
    image[:, 0] = label.float()
    image[..., 0] = 0
    return image, label


def test_everything_off_changes_nothing():
    image, label = example()
    plans = [plan(AugmentConfig(**OFF), 0, 1, i, 4) for i in range(2)]
    out, out_label = augment(image, label, plans)
    assert (out == image).all() and (out_label == label).all()


@pytest.mark.parametrize("axis", range(3))
def test_a_flip_mirrors_its_own_axis(axis):
    image, label = example()
    flips = tuple(a == axis for a in range(3))
    out, out_label = augment(image, label, [still(flips=flips), still()])
    assert (out[0] == image[0].flip(axis + 1)).all() and (out_label[0] == label[0].flip(axis)).all()
    assert (out[1] == image[1]).all()


def test_a_quarter_turn_is_axial_it_turns_x_and_y_and_leaves_z():
    image, label = torch.zeros(1, 4, 12, 12, 8), torch.zeros(1, 12, 12, 8, dtype=torch.uint8)
    image[0, :, 9, 4, 6] = 1
    label[0, 9, 4, 6] = 3
    out, out_label = augment(image, label, [still(quarter_turns=1)])
    (where,) = out_label[0].nonzero().tolist()
    assert where == [7, 9, 6]
    assert out[0, 0, 7, 9, 6] == 1 and out.sum() == image.sum()


def test_patches_that_are_not_square_get_half_turns_only():
    image, label = example((16, 12, 8))
    out, _ = augment(image, label, [still(quarter_turns=1), still(quarter_turns=2)])
    assert out.shape == image.shape and (out[0] == image[0]).all()
    assert (out[1] == image[1].rot90(2, (1, 2))).all()


def test_a_scale_above_one_enlarges_about_the_centre():
    label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    label[:, 6:10, 6:10, 6:10] = 3
    image = label[:, None].float().expand(1, 4, 16, 16, 16)
    volumes = [int((augment(image, label, [still(scale=s)])[1] == 3).sum()) for s in (0.75, 1.0, 1.5)]
    assert volumes[0] < volumes[1] < volumes[2]
    _, larger = augment(image, label, [still(scale=1.5)])
    assert larger[0].nonzero().float().mean(0).tolist() == pytest.approx([7.5] * 3)


def test_brightness_and_contrast_act_in_the_brain_only():
    image, label = example()
    out, _ = augment(image, label, [still(brightness=np.full(4, 0.5), contrast=np.full(4, 2.0))] * 2)
    brain = image != 0
    assert torch.allclose(out[brain], 2 * image[brain] + 0.5) and (out[~brain] == 0).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(0, 1000))
def test_labels_stay_integer_classes_and_aligned_with_the_image(seed, epoch, index):
    image, label = example()
    config = AugmentConfig(**{**OFF, "flip_probability": 0.5, "rotate90_probability": 0.5})
    out, out_label = augment(image, label, [plan(config, seed, epoch, index + i, 4) for i in range(2)])
    visible = out[:, 0] != 0
    assert out_label.dtype == torch.uint8 and (out[:, 0][visible] == out_label[visible].float()).all()
    scaled, scaled_label = augment(image, label, [plan(AugmentConfig(), seed, epoch, index + i, 4) for i in range(2)])
    assert scaled.shape == image.shape and set(scaled_label.unique().tolist()) <= {0, 1, 2, 3} and scaled.isfinite().all()


def test_a_plan_depends_on_seed_epoch_and_index_alone():
    first, again = (plan(AugmentConfig(), 1, 2, 3, 4) for _ in range(2))
    assert first.flips == again.flips and first.scale == again.scale and (first.contrast == again.contrast).all()
    assert len({plan(AugmentConfig(), 1, 2, i, 4).scale for i in range(50)}) == 50


def test_switching_one_transform_off_leaves_the_others_as_they_were():
    full = plan(AugmentConfig(), 5, 1, 7, 4)
    without_flips = plan(AugmentConfig(flip_probability=0.0), 5, 1, 7, 4)
    assert without_flips.flips == (False,) * 3
    assert (without_flips.scale, without_flips.quarter_turns) == (full.scale, full.quarter_turns)
    assert (without_flips.brightness == full.brightness).all()


def test_ranges_are_respected_and_used():
    plans = [plan(AugmentConfig(), 0, 1, i, 4) for i in range(400)]
    scales, contrasts = np.array([p.scale for p in plans]), np.array([p.contrast for p in plans])
    brightness = np.array([p.brightness for p in plans])
    assert 0.9 <= scales.min() < 0.91 and 1.09 < scales.max() <= 1.1
    assert 0.9 <= contrasts.min() < 0.91 and 1.09 < contrasts.max() <= 1.1
    assert -0.1 <= brightness.min() < -0.09 and 0.09 < brightness.max() <= 0.1
    assert 0.4 < np.mean([p.quarter_turns > 0 for p in plans]) < 0.6
    assert np.allclose(np.mean([p.flips for p in plans], axis=0), 0.5, atol=0.1)
