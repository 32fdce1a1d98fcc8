"""The lesion-wise rule against a plain second implementation of it.

That one measures distances by surface-distance.
"""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA, region_masks
from segmamba.data.labels import to_classes
from segmamba.data.volumes import read_volume
from segmamba.evaluation.hausdorff import mask_hd95_mm
from segmamba.evaluation.lesionwise import lesionwise
from segmamba.evaluation.rules import CHALLENGES
from tests.evaluation.scorers import surface_distance_hd95_mm

GLI, MET = CHALLENGES["GLI"], CHALLENGES["MET"]
MM = (1.0, 1.0, 1.0)


def plain_lesionwise(pred, truth, spacing_mm, challenge):
    """(Dice, HD95, found, missed, false) by the rule's own words.

    Slow: it works on sets of voxels of the whole volume.
    """
    within_18 = [
        step for step in itertools.product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() <= 2
    ]
    grown = truth.copy()
    for _ in range(challenge.dilation_steps):
        before = np.pad(grown, 1)
        for step in within_18:
            grown = grown | np.roll(before, step, (0, 1, 2))[1:-1, 1:-1, 1:-1]
    components, false, scores, found, missed = pieces(pred), [], [], 0, 0
    claimed = set()
    for grown_lesion in pieces(grown):
        lesion = truth & grown_lesion
        own = [i for i, component in enumerate(components) if (component & grown_lesion).any()]
        claimed |= set(own)
        if lesion.sum() * np.prod(spacing_mm) <= challenge.ignored_mm3:
            continue
        found, missed = found + bool(own), missed + (not own)
        matched = np.logical_or.reduce([components[i] for i in own]) if own else np.zeros_like(pred)
        dice = 2 * (matched & lesion).sum() / (matched.sum() + lesion.sum())
        scores.append((dice, surface_distance_hd95_mm(matched, lesion, spacing_mm) if own else 374))
    false = len(components) - len(claimed)
    scores += [(0, 374)] * false
    return (*(np.mean(scores, axis=0) if scores else (1, 0)), found, missed, false)


def pieces(mask):
    """The 26-connected components, each as a mask, by flooding."""
    left, components = {tuple(at) for at in np.argwhere(mask)}, []
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]
    while left:
        edge = [left.pop()]
        piece = set(edge)
        while edge:
            x, y, z = edge.pop()
            for dx, dy, dz in steps:
                if (near := (x + dx, y + dy, z + dz)) in left:
                    left.remove(near)
                    piece.add(near)
                    edge.append(near)
        components.append(np.zeros_like(mask))
        components[-1][tuple(np.transpose(list(piece)))] = True
    return components


def box(*sides, shape=(40, 36, 28)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


LARGE = box((4, 12), (4, 12), (4, 12))
NEAR = box(
    (17, 21), (4, 12), (4, 12)
)  # 5 voxels from LARGE: three steps of growth on both sides meet, one step does not
FAR = box((28, 36), (20, 30), (10, 20))
TINY = box((20, 22), (30, 33), (2, 5))  # 18 mm3
SPECK = box((2, 3), (33, 34), (25, 26))
NONE = np.zeros((40, 36, 28), bool)

EDGE_CASES = {
    "both empty": (NONE, NONE),
    "missed": (NONE, LARGE | FAR),
    "nothing there": (LARGE, NONE),
    "one stray voxel where there is nothing": (SPECK, NONE),
    "perfect": (LARGE | FAR, LARGE | FAR),
    "perfect but for one stray voxel": (LARGE | FAR | SPECK, LARGE | FAR),
    "one of two missed": (FAR, LARGE | FAR),
    "near lesions": (LARGE, LARGE | NEAR),
    "touching by a corner": (
        box((4, 8), (4, 8), (4, 8)),
        box((4, 8), (4, 8), (4, 8)) | box((8, 12), (8, 12), (8, 12)),
    ),
    "one component over two lesions": (box((4, 36), (4, 30), (8, 12)), LARGE | FAR),
    "two components in one lesion": (
        box((4, 7), (4, 12), (4, 12)) | box((9, 12), (4, 12), (4, 12)),
        LARGE,
    ),
    "beside a lesion, within its growth": (box((14, 16), (4, 12), (4, 12)), LARGE),
    "beside a lesion, beyond its growth": (box((15, 17), (4, 12), (4, 12)), LARGE),
    "a tiny lesion alone, missed": (NONE, TINY),
    "a tiny lesion alone, found": (TINY, TINY),
    "a tiny lesion among others, found": (LARGE | TINY, LARGE | TINY),
    "at the border": (box((0, 6), (0, 6), (22, 28)), box((0, 7), (0, 5), (20, 28))),
}


@pytest.mark.parametrize("challenge", [GLI, MET], ids=["GLI", "MET"])
@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases_agree_with_the_plain_implementation(name, challenge):
    assert_agrees(*EDGE_CASES[name], (1.0, 1.2, 0.8), challenge)


@pytest.mark.parametrize("seed", range(12))
def test_random_blobs_agree_with_the_plain_implementation(seed):
    rng = np.random.default_rng(seed)
    truth, extra = (
        ndimage.gaussian_filter(rng.normal(size=(36, 32, 24)), 2.2) > limit
        for limit in (0.08, 0.11)
    )
    pred = np.roll(truth & (rng.random(truth.shape) < 0.9), 1, 0) | extra
    assert_agrees(pred, truth, MM, GLI if seed % 2 else MET)


def test_real_cases_agree_with_the_plain_implementation():
    if "SEGMAMBA_BRATS" not in os.environ:
        pytest.skip("SEGMAMBA_BRATS names no folder of real cases")
    rng = np.random.default_rng(0)
    for case in find_cases(Path(os.environ["SEGMAMBA_BRATS"]) / "brats2018"):
        values, _, spacing_mm = read_volume(case.label)
        for truth in region_masks(to_classes(values, case.convention, case.label, GLIOMA), GLIOMA):
            noisy = ndimage.gaussian_filter(truth + rng.normal(0, 1, truth.shape), 2) > 0.5
            assert_agrees(noisy, truth, spacing_mm, GLI)


def assert_agrees(pred, truth, spacing_mm, challenge):
    ours = lesionwise(pred, truth, spacing_mm, challenge)
    dice, hd95_mm, found, missed, false = plain_lesionwise(pred, truth, spacing_mm, challenge)
    assert (ours.found, ours.missed, ours.false) == (found, missed, false)
    assert ours.dice == pytest.approx(dice, abs=1e-9) and ours.hd95_mm == pytest.approx(
        hd95_mm, abs=1e-9
    )


def test_a_known_hd95_of_the_whole_changes_nothing():
    for pred, truth in EDGE_CASES.values():
        assert lesionwise(pred, truth, MM, GLI, mask_hd95_mm(pred, truth, MM)) == lesionwise(
            pred, truth, MM, GLI
        )


def test_one_stray_voxel_halves_a_perfect_case_with_one_lesion():
    scored = lesionwise(LARGE | SPECK, LARGE, MM, GLI)
    assert (
        scored.dice == 0.5
        and scored.hd95_mm == 187
        and (scored.found, scored.missed, scored.false) == (1, 0, 1)
    )


def test_lesions_that_nearly_touch_count_once_and_distant_ones_each():
    together, apart = (
        lesionwise(LARGE, LARGE | NEAR, MM, GLI),
        lesionwise(LARGE, LARGE | NEAR, MM, MET),
    )
    assert together.missed == 0 and together.dice == pytest.approx(2 * 512 / (512 + 512 + 256))
    assert apart.missed == 1 and apart.dice == 0.5


def test_a_lesion_of_the_challenges_limit_is_left_out_and_a_larger_one_is_not():
    assert lesionwise(NONE, box((0, 5), (0, 5), (0, 2)), MM, GLI).dice == 1
    assert lesionwise(NONE, box((0, 5), (0, 5), (0, 2)), (1.0, 1.0, 1.01), GLI).dice == 0
