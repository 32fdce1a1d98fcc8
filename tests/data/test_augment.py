import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.config import AugmentConfig
from segmamba.data.augment import AugmentationDraws, augment, draw_augmentation
from segmamba.data.augment_spatial import warp

OFF = {
    "flip_probability": 0.0,
    "rotate90_probability": 0.0,
    "scale_range": (1.0, 1.0),
    "brightness": 0.0,
    "contrast_range": (1.0, 1.0),
}


EVERYTHING = {
    f"{name}_probability": 1.0
    for name in (
        "flip",
        "rotate90",
        "rotation",
        "elastic",
        "noise",
        "blur",
        "low_resolution",
        "gamma",
    )
} | {"elastic_spacing_voxels": 8.0}


def still(**changes):
    """Draws that do nothing but what is asked."""
    nothing = {
        "flips": (False,) * 3,
        "quarter_turns": 0,
        "scale": 1.0,
        "brightness": np.zeros(4),
        "contrast": np.ones(4),
        "rotation_degrees": (0.0,) * 3,
        "elastic_voxels": 0.0,
        "elastic_spacing": 8.0,
        "field_seed": 1,
        "noise_std": np.zeros(4),
        "noise_seed": 1,
        "blur_sigma": np.zeros(4),
        "zoom": np.ones(4),
        "gamma": np.ones(4),
        "dropped": np.zeros(4, bool),
    }
    return AugmentationDraws(**{**nothing, **changes})


def example(shape=(12, 12, 8), batch=2):
    """Images whose first channel holds the label, so that alignment can be seen.

    The last slice is background, all 0.
    """
    torch.manual_seed(0)
    label = torch.zeros(batch, *shape, dtype=torch.uint8)
    label[:, 2:6, 3:9, 1:4] = torch.randint(1, 4, (batch, 4, 6, 3)).to(torch.uint8)
    image = torch.randn(batch, 4, *shape)
    image[:, 0] = label.float()
    image[..., 0] = 0
    return image, label


def draws_of_two(config, seed, epoch, index):
    """The draws of two patches that follow each other."""
    return [draw_augmentation(config, seed, epoch, index + i, 4) for i in range(2)]


def test_everything_off_changes_nothing():
    image, label = example()
    out, out_label = augment(image, label, draws_of_two(AugmentConfig(**OFF), 0, 1, 0))
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


@pytest.mark.parametrize("shape", [(12, 12, 8), (16, 12, 8)], ids=str)
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)), ids=str)
def test_mirror_images_and_turns_are_the_same_within_the_interpolation_as_without_it(shape, flips):
    image, label = example(shape, batch=4)
    draws = [still(flips=flips, quarter_turns=turns) for turns in range(4)]
    exact, exact_label = augment(image, label, draws)
    out, out_label = warp(image, label, draws)
    assert torch.allclose(out, exact, atol=1e-4) and (out_label == exact_label).all()


def test_a_deformation_is_turned_and_mirrored_with_what_it_deforms():
    image, label = example((16, 16, 16), batch=1)
    bent, _ = augment(image, label, [still(elastic_voxels=1.0)])
    turned, turned_label = (
        t[0] for t in augment(image, label, [still(flips=(True, False, True), quarter_turns=3)])
    )
    both, both_label = augment(
        image, label, [still(elastic_voxels=1.0, flips=(True, False, True), quarter_turns=3)]
    )
    after, after_label = augment(turned[None], turned_label[None], [still(elastic_voxels=1.0)])
    assert (
        torch.allclose(both, after, atol=1e-4)
        and (both_label == after_label).all()
        and not torch.allclose(bent, after, atol=0.1)
    )


def test_a_scale_above_one_enlarges_about_the_centre():
    label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    label[:, 6:10, 6:10, 6:10] = 3
    image = label[:, None].float().expand(1, 4, 16, 16, 16)
    volumes = [
        int((augment(image, label, [still(scale=s)])[1] == 3).sum()) for s in (0.75, 1.0, 1.5)
    ]
    assert volumes[0] < volumes[1] < volumes[2]
    _, larger = augment(image, label, [still(scale=1.5)])
    assert larger[0].nonzero().float().mean(0).tolist() == pytest.approx([7.5] * 3)


def test_brightness_and_contrast_act_in_the_brain_only():
    image, label = example()
    out, _ = augment(
        image, label, [still(brightness=np.full(4, 0.5), contrast=np.full(4, 2.0))] * 2
    )
    brain = image != 0
    assert torch.allclose(out[brain], 2 * image[brain] + 0.5) and (out[~brain] == 0).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(0, 1000))
def test_labels_stay_integer_classes_and_aligned_with_the_image(seed, epoch, index):
    image, label = example()
    config = AugmentConfig(**{**OFF, "flip_probability": 0.5, "rotate90_probability": 0.5})
    out, out_label = augment(image, label, draws_of_two(config, seed, epoch, index))
    visible = out[:, 0] != 0
    assert (
        out_label.dtype == torch.uint8 and (out[:, 0][visible] == out_label[visible].float()).all()
    )
    scaled, scaled_label = augment(image, label, draws_of_two(AugmentConfig(), seed, epoch, index))
    assert (
        scaled.shape == image.shape
        and set(scaled_label.unique().tolist()) <= {0, 1, 2, 3}
        and scaled.isfinite().all()
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([(12, 12, 8), (16, 12, 8), (8, 8, 8)]))
def test_label_and_image_are_sampled_at_the_same_places_by_all_spatial_transforms_together(
    seed, shape
):
    """The nearest voxel bounds the image wherever the label says 0 or 1.

    At least (1/2)^3 of an interpolated 0-1 image comes from it.
    """
    label = torch.from_numpy(
        np.random.default_rng(seed).integers(0, 2, (2, *shape)).astype(np.uint8)
    )
    image = label[:, None].float().repeat(1, 4, 1, 1, 1)
    config = AugmentConfig(
        **{
            **OFF,
            "scale_range": (0.8, 1.25),
            "flip_probability": 0.5,
            "rotate90_probability": 0.5,
            "rotation_probability": 1.0,
            "elastic_probability": 1.0,
            "elastic_spacing_voxels": 8.0,
        }
    )
    out, out_label = augment(image, label, draws_of_two(config, seed, 1, 0))
    assert out_label.dtype == torch.uint8 and set(out_label.unique().tolist()) <= {0, 1}
    assert (out[:, 0][out_label == 1] >= 0.125 - 1e-4).all()
    assert (out[:, 0][out_label == 0] <= 0.875 + 1e-4).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(0, 1000))
def test_intensities_leave_labels_and_background_alone_and_stay_finite(seed, epoch, index):
    image, label = example()
    config = AugmentConfig(
        **{
            **EVERYTHING,
            "flip_probability": 0.0,
            "rotate90_probability": 0.0,
            "scale_range": (1.0, 1.0),
            "rotation_probability": 0.0,
            "elastic_probability": 0.0,
        }
    )
    out, out_label = augment(image, label, draws_of_two(config, seed, epoch, index))
    assert (out_label == label).all() and (out[image == 0] == 0).all() and out.isfinite().all()
    assert (out != image).any(dim=(2, 3, 4)).all(), "every channel of every patch is changed"


@pytest.mark.parametrize("axis", range(3))
def test_a_rotation_by_90_degrees_is_a_quarter_turn_about_its_axis(axis):
    image, label = example((12, 12, 12))
    plane = [a + 1 for a in range(3) if a != axis]
    degrees = tuple(90.0 if a == axis else 0.0 for a in range(3))
    out, out_label = augment(image, label, [still(rotation_degrees=degrees)] * 2)
    turned, turned_label = (
        (image.rot90(k, [a + 1 for a in plane]) for k in (1, 3)),
        [label.rot90(k, plane) for k in (1, 3)],
    )
    assert any(torch.allclose(out, t, atol=1e-4) for t in turned) and any(
        (out_label == t).all() for t in turned_label
    )


def test_a_rotation_keeps_shapes_in_patches_that_are_not_cubes():
    """A ball keeps its volume and its centre at any angle, though the sides of the patch differ."""
    grid = torch.stack(
        torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (32, 24, 16)), indexing="ij")
    )
    label = (grid.square().sum(0) < 36)[None].to(torch.uint8)
    image = label[:, None].float().expand(1, 4, -1, -1, -1)
    _, out = augment(image, label, [still(rotation_degrees=(25.0, -40.0, 70.0))])
    assert abs(int(out.sum()) / int(label.sum()) - 1) < 0.05
    assert (out != label).float().mean() < 0.01


def test_mixed_precision_around_it_moves_no_voxel():
    image, label = example((32, 32, 16))
    draws = [
        still(
            scale=1.1,
            rotation_degrees=(10.0, 20.0, 30.0),
            flips=(True, False, False),
            quarter_turns=1,
        )
    ] * 2
    plain, plain_label = augment(image, label, draws)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_label = augment(image, label, draws)
    assert (mixed == plain).all() and (mixed_label == plain_label).all()


def test_an_elastic_deformation_is_smooth_and_about_as_large_as_asked():
    size = (48, 48, 32)
    image = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32) + 1 for n in size), indexing="ij")
    )[None, [0, 1, 2, 0]]
    label = torch.zeros(1, *size, dtype=torch.uint8)
    out, _ = augment(image, label, [still(elastic_voxels=2.0, elastic_spacing=16.0)])
    inner = (slice(None), slice(None), *(slice(10, n - 10) for n in size))
    moved = (out - image)[inner]
    assert 0.3 < moved.std() < 2.0, "a spline is smoother than its control points"
    assert all(moved.diff(dim=axis).abs().max() < 0.7 for axis in (2, 3, 4)), (
        "neighbours move together and never pass each other"
    )


def test_noise_is_as_strong_as_asked_in_its_channel_only_and_repeats():
    image, label = (
        torch.full((1, 4, 24, 24, 24), 5.0),
        torch.zeros(1, 24, 24, 24, dtype=torch.uint8),
    )
    draws = [still(noise_std=np.array([0, 0.1, 0, 0]), noise_seed=7)]
    out, _ = augment(image, label, draws)
    assert (
        float((out - image)[0, 1].std()) == pytest.approx(0.1, rel=0.05)
        and (out == image)[0, [0, 2, 3]].all()
    )
    assert (augment(image, label, draws)[0] == out).all()


def test_each_patch_has_noise_of_its_own_strength_and_its_own_seed():
    image, label = (
        torch.full((3, 4, 24, 24, 24), 5.0),
        torch.zeros(3, 24, 24, 24, dtype=torch.uint8),
    )
    draws = [
        still(),
        still(noise_std=np.full(4, 0.1), noise_seed=7),
        still(noise_std=np.full(4, 0.2), noise_seed=8),
    ]
    noise = augment(image, label, draws)[0] - image
    assert noise.std((1, 2, 3, 4)).tolist() == pytest.approx([0, 0.1, 0.2], rel=0.05)
    assert not torch.allclose(2 * noise[1], noise[2], atol=0.01)


def test_a_blur_is_the_gaussian_of_its_sigma():
    image, label = (
        torch.full((1, 4, 17, 17, 17), 1e-9),
        torch.zeros(1, 17, 17, 17, dtype=torch.uint8),
    )
    image[0, :, 8, 8, 8] = 1
    out, _ = augment(image, label, [still(blur_sigma=np.array([0, 0.5, 1.0, 1.0]))])
    assert (out[0, 0] == image[0, 0]).all() and float(out[0, 2].sum()) == pytest.approx(1, rel=0.02)
    along = torch.arange(17) - 8
    for channel, sigma in ((1, 0.5), (2, 1.0)):
        assert float((out[0, channel].sum((1, 2)) * along**2).sum()) == pytest.approx(
            sigma**2, rel=0.2
        )


def test_low_resolution_removes_detail_and_keeps_the_mean():
    image, label = example((16, 16, 16))
    image = image + 5
    out, _ = augment(image, label, [still(zoom=np.array([1, 0.5, 1, 1]))] * 2)
    assert (out[:, [0, 2, 3]] == image[:, [0, 2, 3]]).all()
    assert out[:, 1].diff(dim=1).std() < 0.7 * image[:, 1].diff(dim=1).std()
    assert float(out[:, 1].mean()) == pytest.approx(float(image[:, 1].mean()), abs=0.1)


def test_a_channel_loses_as_much_detail_as_its_own_zoom_says():
    image, label = torch.rand(1, 4, 16, 16, 16) + 1, torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    image[:] = image[:, :1]
    out, _ = augment(image, label, [still(zoom=np.array([0.9, 0.5, 0.25, 1]))])
    rough = [float(channel.diff(dim=0).std()) for channel in out[0]]
    assert rough[2] < rough[1] < rough[0] < rough[3]


def test_gamma_keeps_order_mean_and_spread_within_the_brain():
    image, label = example()
    out, _ = augment(image, label, [still(gamma=np.array([1, 0.7, 1.5, 1]))] * 2)
    for channel in (1, 2):
        brain = image[0, channel] != 0
        before, after = image[0, channel][brain], out[0, channel][brain]
        assert (after[before.argsort()].diff() >= -1e-5).all() and not torch.allclose(
            before, after, atol=0.01
        )
        assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-4) and float(
            after.std()
        ) == pytest.approx(float(before.std()), rel=1e-3)
    assert (out[:, [0, 3]] == image[:, [0, 3]]).all()


def test_the_draws_depend_on_seed_epoch_and_index_alone():
    first, again = (draw_augmentation(AugmentConfig(), 1, 2, 3, 4) for _ in range(2))
    assert (
        first.flips == again.flips
        and first.scale == again.scale
        and (first.contrast == again.contrast).all()
    )
    assert len({draw_augmentation(AugmentConfig(), 1, 2, i, 4).scale for i in range(50)}) == 50


@pytest.mark.parametrize(
    "switch", [f.name for f in dataclasses.fields(AugmentConfig) if f.name.endswith("_probability")]
)
def test_switching_one_transform_off_leaves_the_others_as_they_were(switch):
    field = {
        "flip": "flips",
        "rotate90": "quarter_turns",
        "rotation": "rotation_degrees",
        "elastic": "elastic_voxels",
        "noise": "noise_std",
        "blur": "blur_sigma",
        "low_resolution": "zoom",
        "gamma": "gamma",
    }[switch.removesuffix("_probability")]
    full, without = (
        dataclasses.asdict(draw_augmentation(AugmentConfig(**{**EVERYTHING, **off}), 5, 1, 7, 4))
        for off in ({}, {switch: 0.0})
    )
    assert [name for name in full if not np.array_equal(full[name], without[name])] == [field]


def test_what_is_off_by_default_stays_off_and_changes_none_of_its_draws():
    extra = {
        name: value
        for name, value in EVERYTHING.items()
        if not name.startswith(("flip", "rotate90"))
    }
    default, more = (
        draw_augmentation(AugmentConfig(**changes), 5, 1, 7, 4) for changes in ({}, extra)
    )
    assert default.rotation_degrees == (0.0,) * 3 and default.elastic_voxels == 0
    assert (
        not default.noise_std.any()
        and not default.blur_sigma.any()
        and (default.zoom == 1).all()
        and (default.gamma == 1).all()
    )
    assert (default.flips, default.quarter_turns, default.scale) == (
        more.flips,
        more.quarter_turns,
        more.scale,
    )
    assert (default.brightness == more.brightness).all() and (
        default.contrast == more.contrast
    ).all()


def test_ranges_are_respected_and_used():
    draws = [draw_augmentation(AugmentConfig(), 0, 1, i, 4) for i in range(400)]
    scales, contrasts = np.array([d.scale for d in draws]), np.array([d.contrast for d in draws])
    brightness = np.array([d.brightness for d in draws])
    assert 0.9 <= scales.min() < 0.91 and 1.09 < scales.max() <= 1.1
    assert 0.9 <= contrasts.min() < 0.91 and 1.09 < contrasts.max() <= 1.1
    assert -0.1 <= brightness.min() < -0.09 and 0.09 < brightness.max() <= 0.1
    assert 0.4 < np.mean([d.quarter_turns > 0 for d in draws]) < 0.6
    assert np.allclose(np.mean([d.flips for d in draws], axis=0), 0.5, atol=0.1)
