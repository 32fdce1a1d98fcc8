"""Thresholds, small components, small ET, and how sure a prediction is."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.data.label_sets import GLIOMA, region_masks
from segmamba.errors import UserError
from segmamba.inference.decide import class_probabilities, decide, region_probabilities
from segmamba.inference.postprocess import likeliest, postprocess_classes, without_small_components
from segmamba.inference.uncertainty import entropy, vote_with_entropy
from segmamba.models.outputs import Channels

CLASSES, REGIONS = (Channels(GLIOMA, are_regions) for are_regions in (False, True))
NCR, ED, ET = (GLIOMA.number(name) for name in ("NCR", "ED", "ET"))


def volume():
    """20x20x20: oedema of 10x10x10 with a core of 6x6x6 that enhances but for its 2x2x2 middle."""
    classes = np.zeros((20, 20, 20), np.uint8)
    classes[5:15, 5:15, 5:15] = ED
    classes[7:13, 7:13, 7:13] = ET
    classes[9:11, 9:11, 9:11] = NCR
    return classes


def test_a_lone_speck_goes_and_the_tumour_stays():
    classes = volume()
    classes[0:2, 0:2, 0:2] = ET
    assert np.array_equal(without_small_components(classes, (9, 9, 9), GLIOMA), volume())
    assert np.array_equal(without_small_components(classes, (8, 8, 8), GLIOMA), classes), (
        "a component of exactly the limit stays"
    )


def test_diagonal_neighbours_are_one_component():
    classes = np.zeros((8, 8, 8), np.uint8)
    classes[np.arange(4), np.arange(4), np.arange(4)] = ED
    assert np.array_equal(without_small_components(classes, (0, 0, 4), GLIOMA), classes)
    assert not without_small_components(classes, (0, 0, 5), GLIOMA).any()


def test_what_leaves_an_inner_region_stays_in_the_outer_one():
    classes = volume()
    classes[5, 5, 5] = ET  # in the oedema, apart from the core
    assert without_small_components(classes, (2, 0, 0), GLIOMA)[5, 5, 5] == NCR
    assert without_small_components(classes, (0, 2, 0), GLIOMA)[5, 5, 5] == ED
    assert without_small_components(classes, (2, 2, 2), GLIOMA)[5, 5, 5] == ED


@settings(deadline=None)
@given(
    arrays(np.uint8, (6, 6, 6), elements=st.integers(0, 3)), st.tuples(*[st.integers(0, 12)] * 3)
)
def test_regions_stay_nested_shrink_and_have_no_small_component_left(classes, smallest):
    from scipy.ndimage import label

    before = region_masks(classes, GLIOMA)
    kept = region_masks(without_small_components(classes, smallest, GLIOMA), GLIOMA)
    et, tc, wt = kept
    assert not (et & ~tc).any() and not (tc & ~wt).any() and not (kept & ~before).any()
    for mask, limit in zip(kept, smallest, strict=True):
        sizes = np.bincount(label(mask, np.ones((3, 3, 3)))[0].ravel())[1:]
        assert (sizes >= limit).all()


@pytest.mark.parametrize(("limit", "becomes"), [(208, ET), (209, NCR)])
def test_an_et_below_the_threshold_becomes_ncr_as_a_whole(limit, becomes):
    after = postprocess_classes(volume(), PostprocessConfig(min_et_voxels=limit), GLIOMA)
    assert (after[volume() == ET] == becomes).all() and np.array_equal(after > 0, volume() > 0)


def test_off_values_change_nothing():
    classes = np.random.default_rng(0).integers(0, 4, (9, 9, 9)).astype(np.uint8)
    assert PostprocessConfig().is_off and np.array_equal(
        postprocess_classes(classes, PostprocessConfig(), GLIOMA), classes
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crf_steps", -1),
        ("thresholds", (0.5, 0.5)),
        ("thresholds", (0.5, 0.5, 1.0)),
        ("min_component_voxels", (1, -1, 1)),
        ("min_et_voxels", -1),
    ],
)
def test_a_wrong_value_dies_with_its_name(field, value):
    with pytest.raises(UserError, match=f"postprocess.{field}"):
        PostprocessConfig(**{field: value})


def test_stored_parameters_come_back(tmp_path):
    chosen = PostprocessConfig(
        thresholds=(0.4, 0.5, 0.6),
        min_component_voxels=(10, 100, 100),
        min_et_voxels=200,
        crf_steps=3,
    )
    (tmp_path / "postprocessing.json").write_text(chosen.to_json())
    assert load_postprocess(tmp_path / "postprocessing.json") == chosen and not chosen.is_off


def probability(seed, shape=(5, 6, 7)):
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed)).mul(3).softmax(0)


def test_classes_and_regions_mean_the_same_probabilities():
    classes = probability(0)
    regions = region_probabilities(classes, GLIOMA)
    assert torch.allclose(regions[REGIONS.names.index("WT")], 1 - classes[0], atol=1e-6)
    assert torch.allclose(class_probabilities(regions, GLIOMA), classes, atol=1e-5)


def test_thresholds_move_a_region_and_inner_regions_stay_within_outer_ones():
    classes = probability(1)
    strict, loose = (decide(classes, CLASSES, (0.5, 0.5, wt)).numpy() for wt in (0.9, 0.1))
    wt = (1 - classes[0]).numpy()
    assert np.array_equal(strict > 0, wt > 0.9) and np.array_equal(loose > 0, wt > np.float32(0.1))
    assert np.array_equal(decide(classes, CLASSES).numpy(), classes.argmax(0).numpy())


def test_thresholds_apply_to_what_the_predictor_decides():
    p = probability(2)
    config = PostprocessConfig(thresholds=(0.2, 0.3, 0.8))
    assert np.array_equal(
        likeliest(p, CLASSES, config, None).numpy(), decide(p, CLASSES, (0.2, 0.3, 0.8)).numpy()
    )


def test_entropy_is_zero_where_certain_and_one_where_all_is_alike():
    certain, alike = torch.zeros(4, 1, 1, 1), torch.full((4, 1, 1, 1), 0.25)
    certain[2] = 1
    assert entropy(certain, CLASSES).item() == 0 and entropy(
        alike, CLASSES
    ).item() == pytest.approx(1)
    assert entropy(torch.full((3, 1, 1, 1), 0.5), REGIONS).item() == pytest.approx(1)


def test_disagreement_is_zero_among_equals_and_large_between_sure_opposites():
    sure = torch.zeros(4, 1, 1, 1)
    sure[0] = 1
    mean, (common, apart) = vote_with_entropy([sure, sure.flip(0)], CLASSES)
    assert mean.flatten().tolist() == [
        0.5,
        0,
        0,
        0.5,
    ] and common.item() == apart.item() == pytest.approx(0.5)
    unsure = torch.full((4, 1, 1, 1), 0.25)
    assert vote_with_entropy([unsure, unsure], CLASSES)[1][1].item() == pytest.approx(0, abs=1e-6)


def test_every_setting_changes_a_result():
    """No setting that nothing reads."""
    rng = torch.Generator().manual_seed(3)
    p = torch.randn(4, 24, 24, 24, generator=rng).softmax(0)
    image = torch.randn(4, 24, 24, 24, generator=rng)
    on = PostprocessConfig(
        crf_steps=2, thresholds=(0.3, 0.4, 0.5), min_component_voxels=(5, 5, 5), min_et_voxels=10
    )

    def result(config):
        return postprocess_classes(
            likeliest(p, CLASSES, config, lambda: image).numpy(), config, GLIOMA
        )

    others = {
        "crf_steps": 1,
        "crf_smoothness": 2.0,
        "crf_appearance": 5.0,
        "crf_reach": 0.7,
        "crf_contrast": 2.0,
        "thresholds": (0.2, 0.3, 0.6),
        "min_component_voxels": (10**5, 5, 5),
        "min_et_voxels": 10**6,
    }
    assert set(others) == {field.name for field in dataclasses.fields(PostprocessConfig)}
    for name, value in others.items():
        assert not np.array_equal(result(on), result(dataclasses.replace(on, **{name: value}))), (
            name
        )
