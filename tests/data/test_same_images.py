import json
import sys

import nibabel
import numpy as np
import pytest

from segmamba.cli import main
from segmamba.data.same_images import (
    DigestedCase,
    find_same_images,
    image_digests,
    place,
)
from segmamba.data.source import prepare_split, source_changes
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, write_case
from tests.tiny import TINY


def no_steps(label):
    return lambda done, total: None


@pytest.fixture
def image():
    """int16 (24, 20, 18), a brain of no symmetry in a background of 0."""
    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:24, :20, :18]
    brain = (x - 11) ** 2 / 60 + (y - 9) ** 2 / 50 + (z - 8) ** 2 / 30 + x / 90 < 1
    return np.where(brain, rng.integers(50, 900, brain.shape), 0).astype(np.int16)


def same(one, other):
    (first,), (second,) = image_digests([one]), image_digests([other])
    return first == second


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(np.float32),
        lambda a: a.astype(np.float64),
        lambda a: np.pad(a, ((3, 1), (0, 5), (2, 2))),
        lambda a: a[1:, :, 1:],
        lambda a: a[::-1],
        lambda a: a[:, ::-1, ::-1],
        lambda a: a.transpose(2, 0, 1),
        lambda a: np.asfortranarray(a),
        lambda a: a * 0.37,
        lambda a: np.where(a, a * 3.0 + 40, 0),
        lambda a: (a - a.mean()) / a.std(),
        lambda a: np.where(a, (a - a[a > 0].mean()) / a[a > 0].std(), 0),
        lambda a: a - 1,
        lambda a: np.where(a, np.log(np.maximum(a, 1)), 0),
    ],
)
def test_the_same_voxels_are_recognised_however_they_are_stored(image, change):
    assert same(image, change(image))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.where(a, np.random.default_rng(1).permutation(a.ravel()).reshape(a.shape), 0),
        lambda a: np.where(a, 950 - a, 0),
        lambda a: a // 64,
        lambda a: np.roll(np.where(a == a.max(), 0, a), 1, 0),
    ],
)
def test_other_voxels_are_another_image(image, change):
    assert not same(image, change(image))


def test_masks_and_empty_images_tell_no_persons_apart(image):
    assert image_digests([np.zeros((4, 4, 4)), image > 0, np.clip(image, 0, 3)]) == []


def test_cases_that_share_an_image_are_one_patient_through_others_too():
    found = find_same_images(
        [
            DigestedCase("a", "A", ["1", "2"]),
            DigestedCase("b", "B", ["2", "3"]),
            DigestedCase("c", "C", ["3"]),
            DigestedCase("d", "D", ["4", "4"]),
        ]
    )
    assert found.groups == (("a", "b", "c"),)
    assert {found.patient(name) for name in "ABC"} == {min("ABC", key=place)}
    assert found.patient("D") == "D"
    assert found.notes == [
        "3 cases share an image with another and count as one patient with it: a and b and c"
    ]


def test_patients_are_joined_with_all_their_cases():
    found = find_same_images(
        [
            DigestedCase("a1", "A", ["1"]),
            DigestedCase("a2", "A", ["2"]),
            DigestedCase("b1", "B", ["2"]),
            DigestedCase("b2", "B", ["3"]),
        ]
    )
    assert found.groups == (("a2", "b1"),) and found.patient("A") == found.patient("B")


@pytest.fixture(scope="module")
def two_years(tmp_path_factory):
    """Six patients; two of them again, cropped, moved, and scaled or z-scored, as a later year."""
    folder = tmp_path_factory.mktemp("years") / "data"
    for number in range(6):
        write_case(folder, f"BraTS20_Training_{number:03d}", shape=(32, 32, 32), seed=number)
    for number, copy in ((1, "BraTS2021_00007"), (4, "BraTS2021_00011")):
        case = write_case(folder, copy, shape=(32, 32, 32), seed=number)
        for path in case.glob("*.nii.gz"):
            array = np.asarray(nibabel.load(path).dataobj)[1:]
            affine = BRATS_AFFINE.copy()
            affine[:3, 3] = (17, -4, 9)
            whole = (array - array.mean()) / array.std()
            scaled = array if "seg" in path.name else array * 0.5 if number == 1 else whole
            nibabel.save(nibabel.Nifti1Image(scaled.astype(np.float32), affine), path)
    return folder


TWINS = [
    {"BraTS20_Training_001", "BraTS2021_00007"},
    {"BraTS20_Training_004", "BraTS2021_00011"},
]


def sets_of(split):
    return [{case.id for case in group} for group in (split.train, split.validation, split.test)]


@pytest.mark.parametrize("folds", [0, 3])
def test_one_person_under_two_ids_is_never_in_two_sets(two_years, tmp_path_factory, folds):
    results = tmp_path_factory.mktemp("results")
    config = TINY.changed(source_changes(two_years, "auto"))
    data = prepare_split(config, results, steps=no_steps)
    assert data.notes[0] == "8 cases of 6 patients, by images that they share"
    assert "BraTS2021_00007 and BraTS20_Training_001" in data.notes[1]
    for seed in range(20):
        changes = {"data.split_seed": seed, "data.folds": folds, "data.fold": seed % max(folds, 1)}
        split = data.split(config.changed(changes).data)
        for twins in TWINS:
            assert sum(bool(twins & group) for group in sets_of(split)) == 1
            assert any(twins <= group for group in sets_of(split))


def test_a_splits_file_that_divides_two_ids_of_one_person_is_refused(two_years, tmp_path):
    config = TINY.changed(source_changes(two_years, "auto"))
    data = prepare_split(config, tmp_path, steps=no_steps)
    path = tmp_path / "splits_final.json"
    ids = sorted({case.id for case in data.labelled} - TWINS[1])
    one, other = sorted(TWINS[0])
    tests = [[ids[1]], [one]]
    folds = [{"train": [i for i in ids if i not in test], "val": test} for test in tests]
    path.write_text(json.dumps(folds))
    with pytest.raises(UserError, match="fold 1 trains and tests on patient") as refused:
        data.split(config.changed({"data.splits_file": str(path)}).data)
    assert one in str(refused.value) and other in str(refused.value)


def test_the_holdout_file_may_use_either_name_and_both_cases_are_held_out(two_years, tmp_path):
    config = TINY.changed(source_changes(two_years, "auto"))
    data = prepare_split(config, tmp_path, steps=no_steps)
    for name in sorted(TWINS[0]):
        (tmp_path / "holdout.txt").write_text(f"{name}\n")
        changed = config.changed({"data.holdout_file": str(tmp_path / "holdout.txt")})
        assert {case.id for case in data.split(changed.data).holdout} == TWINS[0]


def test_a_new_copy_never_moves_a_patient_out_of_the_holdout_set(two_years, tmp_path):
    config = TINY.changed(source_changes(two_years, "auto") | {"data.holdout_share": 0.4})
    held = {case.id for case in prepare_split(config, tmp_path, steps=no_steps).split().holdout}
    alone = {f"BraTS20_Training_{n:03d}" for n in range(6)}
    assert {i for i in alone if place(i) < 0.4} <= held
    assert all(len(twins & held) in (0, 2) for twins in TWINS)


def test_data_check_and_splits_name_the_copies(two_years, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segmamba", "data", "check", str(two_years)])
    with pytest.raises(SystemExit):
        main()
    shown = " ".join(capsys.readouterr().out.split())
    assert "BraTS2021_00007: shares an image with BraTS20_Training_001" in shown
    assert "8 cases of 6 patients, by images that they share" in shown
    output = tmp_path / "splits_final.json"
    argv = ["segmamba", "data", "splits", str(two_years), "--folds", "3", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        main()
    for fold in json.loads(output.read_text()):
        for twins in TWINS:
            assert len(twins & set(fold["val"])) in (0, 2)


@pytest.mark.filterwarnings("error")
def test_an_image_that_overflows_single_precision_is_digested_without_a_warning(image):
    image_digests([image * 1e38, np.where(image, np.nan, 0)])
