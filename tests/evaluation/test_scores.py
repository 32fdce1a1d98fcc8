import numpy as np
import pytest
import torch

from segmamba.data.label_sets import GLIOMA, region_masks
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import MISSED_MM
from segmamba.evaluation.surface import CORNERS, element_areas, surface_elements
from tests.evaluation.scorers import hd95_mm, surface_distance_hd95_mm


def volume(**boxes):
    """Internal classes: boxes name=(slice, class) painted into 30x20x10."""
    classes = np.zeros((30, 20, 10), np.uint8)
    for where, value in boxes.values():
        classes[where] = value
    return classes


BOX = (slice(5, 15), slice(5, 15), slice(2, 8))
CORE = (slice(8, 12), slice(8, 12), slice(3, 6))
TUMOUR = volume(oedema=(BOX, 2), core=(CORE, 3))


def test_a_perfect_prediction_scores_one_and_zero_mm():
    assert dice(TUMOUR, TUMOUR, GLIOMA) == {"ET": 1, "TC": 1, "WT": 1, "mean": 1}
    assert hd95_mm(TUMOUR, TUMOUR, (1, 1, 1), GLIOMA) == {"ET": 0, "TC": 0, "WT": 0}


def test_missed_lesion_scores_zero_dice_and_max_hd95():
    missed = volume(oedema=(BOX, 2))
    scores, distances = dice(missed, TUMOUR, GLIOMA), hd95_mm(missed, TUMOUR, (1, 1, 1), GLIOMA)
    assert scores["ET"] == scores["TC"] == 0 and scores["WT"] == 1
    assert distances["ET"] == distances["TC"] == MISSED_MM == pytest.approx(373.1287, abs=1e-4)


def test_a_false_positive_where_there_is_nothing_costs_all():
    none = volume()
    one_voxel = volume(speck=((0, 0, 0), 3))
    assert (
        dice(one_voxel, none, GLIOMA)["ET"] == 0
        and hd95_mm(one_voxel, none, (1, 1, 1), GLIOMA)["ET"] == MISSED_MM
    )


def test_both_empty_is_a_success():
    assert (
        dice(volume(), volume(), GLIOMA)["mean"] == 1
        and hd95_mm(volume(), volume(), (1, 1, 1), GLIOMA)["WT"] == 0
    )


def test_dice_of_a_shifted_box_is_its_share_of_overlap():
    shifted = np.roll(TUMOUR, 5, axis=0)
    assert dice(shifted, TUMOUR, GLIOMA)["WT"] == pytest.approx(0.5)
    assert dice(torch.from_numpy(shifted), torch.from_numpy(TUMOUR), GLIOMA) == dice(
        shifted, TUMOUR, GLIOMA
    )


@pytest.mark.parametrize(
    ("axis", "spacing", "expected"), [(0, (1, 1, 1), 3), (0, (2, 1, 1), 6), (2, (1, 1, 4), 4)]
)
def test_hd95_of_a_shift_is_the_shift_in_mm(axis, spacing, expected):
    steps = {0: 3, 2: 1}[axis]
    box = volume(box=(BOX, 3))
    assert hd95_mm(np.roll(box, steps, axis), box, spacing, GLIOMA)["ET"] == expected


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.0), (0.9, 0.7, 5.0)])
@pytest.mark.parametrize("seed", range(4))
def test_hd95_agrees_with_surface_distance(spacing, seed):
    rng = np.random.default_rng(seed)
    a, b = (volume(box=(BOX, 3)) for _ in range(2))
    a[rng.random(a.shape) < 0.01] = 3
    b[rng.random(b.shape) < 0.02] = 0
    a[0, :3], b[-1, -1] = 3, 3  # at the border of the volume
    assert hd95_mm(a, b, spacing, GLIOMA)["ET"] == pytest.approx(
        surface_distance_hd95_mm(a == 3, b == 3, spacing), abs=1e-9
    )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.7, 3.1)])
def test_areas_of_surface_elements_are_those_of_surface_distance(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    code_of = [
        sum(int(kernel[corner]) for bit, corner in enumerate(CORNERS) if code >> bit & 1)
        for code in range(256)
    ]
    np.testing.assert_allclose(element_areas(spacing), theirs[code_of], atol=1e-12)


def test_the_surface_of_a_ball_is_as_large_as_geometry_says():
    x = np.arange(50) - 24.5
    ball = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2 < 20**2
    places, areas = surface_elements(ball, (1, 1, 1))
    assert areas.sum() == pytest.approx(4 * np.pi * 20**2, rel=0.1)
    assert np.linalg.norm(places - 25.0, axis=1) == pytest.approx(20, abs=1)


@pytest.mark.parametrize("seed", range(3))
def test_dice_agrees_with_monai(seed):
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(seed)
    pred, truth = rng.integers(0, 4, (2, 12, 10, 8)).astype(np.uint8)
    theirs = monai.compute_dice(
        torch.from_numpy(region_masks(pred, GLIOMA))[None],
        torch.from_numpy(region_masks(truth, GLIOMA))[None],
        ignore_empty=False,
    )[0]
    assert list(dice(pred, truth, GLIOMA).values())[:3] == pytest.approx(theirs.tolist(), abs=1e-6)
