import numpy as np
import pytest
import torch

from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import MISSED_MM, hd95_mm


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
    assert dice(TUMOUR, TUMOUR) == {"ET": 1, "TC": 1, "WT": 1, "mean": 1}
    assert hd95_mm(TUMOUR, TUMOUR, (1, 1, 1)) == {"ET": 0, "TC": 0, "WT": 0}


def test_missed_lesion_scores_zero_dice_and_max_hd95():
    missed = volume(oedema=(BOX, 2))
    scores, distances = dice(missed, TUMOUR), hd95_mm(missed, TUMOUR, (1, 1, 1))
    assert scores["ET"] == scores["TC"] == 0 and scores["WT"] == 1
    assert distances["ET"] == distances["TC"] == MISSED_MM == pytest.approx(373.1287, abs=1e-4)


def test_a_false_positive_where_there_is_nothing_costs_all():
    none = volume()
    one_voxel = volume(speck=((0, 0, 0), 3))
    assert dice(one_voxel, none)["ET"] == 0 and hd95_mm(one_voxel, none, (1, 1, 1))["ET"] == MISSED_MM


def test_both_empty_is_a_success():
    assert dice(volume(), volume())["mean"] == 1 and hd95_mm(volume(), volume(), (1, 1, 1))["WT"] == 0


def test_dice_of_a_shifted_box_is_its_share_of_overlap():
    shifted = np.roll(TUMOUR, 5, axis=0)
    assert dice(shifted, TUMOUR)["WT"] == pytest.approx(0.5)
    assert dice(torch.from_numpy(shifted), torch.from_numpy(TUMOUR)) == dice(shifted, TUMOUR)


@pytest.mark.parametrize(("axis", "spacing", "expected"), [(0, (1, 1, 1), 3), (0, (2, 1, 1), 6), (2, (1, 1, 4), 4)])
def test_hd95_of_a_shift_is_the_shift_in_mm(axis, spacing, expected):
    steps = {0: 3, 2: 1}[axis]
    box = volume(box=(BOX, 3))
    assert hd95_mm(np.roll(box, steps, axis), box, spacing)["ET"] == expected


def test_hd95_agrees_with_brute_force_over_surface_voxels():
    rng = np.random.default_rng(0)
    a, b = (volume(box=(BOX, 3)) for _ in range(2))
    a[rng.random(a.shape) < 0.01] = 3
    b[rng.random(b.shape) < 0.02] = 0
    spacing = np.array([1.0, 1.5, 2.0])

    def surface(mask):
        padded = np.pad(mask, 1)
        inner = np.all([np.roll(padded, s, ax) for ax in range(3) for s in (-1, 1)], axis=0)
        return np.argwhere(padded & ~inner) * spacing

    sa, sb = surface(a == 3), surface(b == 3)
    distances = np.linalg.norm(sa[:, None] - sb[None], axis=2)
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert hd95_mm(a, b, tuple(spacing))["ET"] == pytest.approx(expected)
