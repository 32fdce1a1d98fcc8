"""Cases that lack modalities, from real files to patches."""

import json

import nibabel
import numpy as np
import pytest
import torch

from segmamba.config import AugmentConfig
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.case import ERROR, INFORMATION
from segmamba.data.cases import find_cases, list_cases
from segmamba.data.check import check, would_fail
from segmamba.data.labels import MODALITIES
from segmamba.data.missing import missing_modalities
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import prepare_split, source_changes
from segmamba.data.summary import summarise
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests.conftest import write_case
from tests.data.test_augment import OFF, draws_of_two, example, still
from tests.tiny import TINY

SHAPE = (32, 32, 32)


def no_steps(label):
    return lambda done, total: None


@pytest.fixture
def folder(tmp_path):
    """Five cases: the second lacks T2, the third all but FLAIR, the fourth has a T1 of zeros."""
    data = tmp_path / "data"
    for number in range(5):
        write_case(data, f"C{number}", shape=SHAPE, seed=number)
    (data / "C1" / "C1_t2.nii.gz").unlink()
    for name in ("t1", "t1ce", "t2"):
        (data / "C2" / f"C2_{name}.nii.gz").unlink()
    path = data / "C3" / "C3_t1.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), image.affine), path)
    return data


def test_a_missing_modality_is_refused_and_the_line_names_the_setting_that_allows_it(folder):
    with pytest.raises(UserError, match=r"C1: modality T2 is missing, .*data\.missing=zeros") as e:
        find_cases(folder)
    assert "\n" not in str(e.value)
    (finding,) = [f for f in list_cases(folder)[1].findings if f.severity == ERROR]
    assert finding.kind == "missing modality"
    assert would_fail(check(folder))


def test_with_zeros_the_check_says_what_is_missing_and_training_can_read_it(folder):
    checked = check(folder, missing="zeros")
    lacks = {case.id: missing_modalities(case.findings) for case in checked}
    assert lacks == {
        "C0": (),
        "C1": ("T2",),
        "C2": ("T1", "T1ce", "T2"),
        "C3": ("T1",),
        "C4": (),
    }
    assert not would_fail(checked)
    assert {f.severity for f in checked[1].findings if "T2" in f.kind} == {INFORMATION}


def test_missing_channels_are_zeros_in_the_cache_and_the_others_as_ever(folder, tmp_path):
    cases = find_cases(folder, missing="zeros")
    prepared = prepare_cases(cases, tmp_path / "cache", TINY.data)
    images = [np.array(case.image()) for case in prepared]
    held = [[bool(channel.any()) for channel in image] for image in images]
    assert held == [
        [True] * 4,
        [True, True, False, True],
        [False, False, False, True],
        [False, True, True, True],
        [True] * 4,
    ]
    assert all(np.isfinite(image).all() for image in images)
    write_case(tmp_path / "whole", "C1", shape=SHAPE, seed=1)
    (whole,) = prepare_cases(find_cases(tmp_path / "whole"), tmp_path / "other", TINY.data)
    assert (images[1][[0, 1, 3]] == whole.image()[[0, 1, 3]]).all()


def test_an_image_of_zeros_stays_an_error_where_none_may_be_missing(folder, tmp_path):
    for name in ("C1", "C2"):
        for path in (folder / name).iterdir():
            path.unlink()
    prepare_cases(find_cases(folder, missing="zeros"), tmp_path / "cache", TINY.data)
    with pytest.raises(UserError, match=r"C3_t1\.nii\.gz is empty"):
        prepare_cases(find_cases(folder), tmp_path / "cache", TINY.data)


def test_a_case_without_any_image_is_refused_always(folder):
    for path in (folder / "C2").glob("*_flair.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match="C2: modality T1 is missing"):
        find_cases(folder, missing="zeros")
    (folder / "C2" / "C2_seg.nii.gz").unlink()
    for name in ("t1ce", "t2", "flair"):
        path = folder / "C3" / f"C3_{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), path)
    path = folder / "C3" / "C3_t1.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), path)
    case = next(c for c in find_cases(folder, missing="zeros") if c.id == "C3")
    with pytest.raises(UserError, match="C3: every image is empty"):
        read_scan(case)


def test_a_data_set_says_how_many_cases_lack_what(folder, tmp_path):
    changes = source_changes(folder, "auto") | {"data.missing": "zeros"}
    data = prepare_split(TINY.changed(changes), tmp_path / "results", steps=no_steps)
    assert "T1 is missing in 2 of 5 cases" in data.notes
    assert "T1ce is missing in 1 of 5 cases" in data.notes
    fingerprint, measured = summarise(folder, missing="zeros")
    assert "T2 is missing in 2 of 5 cases" in fingerprint["notes"]
    assert len(measured) == 5 and fingerprint["unreadable"] == []


def nnunet(root, order, files):
    """An nnU-Net folder of one case whose dataset.json names these channels."""
    case = write_case(root / "made", "X", shape=SHAPE)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    suffix = dict(zip(MODALITIES, ("t1", "t1ce", "t2", "flair"), strict=True))
    for number, modality in enumerate(files):
        target = root / "imagesTr" / f"X_{number:04d}.nii.gz"
        (case / f"X_{suffix[modality]}.nii.gz").rename(target)
    (case / "X_seg.nii.gz").rename(root / "labelsTr" / "X.nii.gz")
    for path in case.iterdir():
        path.unlink()
    names = {"channel_names": {str(i): name for i, name in enumerate(order)}}
    content = names | {"labels": {"background": 0}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_a_dataset_json_that_names_three_modalities_is_read_with_zeros_alone(tmp_path):
    order = ("FLAIR", "T1", "T1ce")
    root = nnunet(tmp_path / "set", order, order)
    with pytest.raises(UserError, match="needed are T1, T1ce, T2, FLAIR"):
        find_cases(root, "brats2018")
    (case,) = find_cases(root, "brats2018", missing="zeros")
    scan = read_scan(case)
    assert missing_modalities(scan.findings) == ("T2",)
    assert [bool(channel.any()) for channel in scan.image] == [True, True, False, True]


def test_a_channel_of_unknown_name_is_not_taken_for_a_missing_modality(tmp_path):
    root = nnunet(tmp_path / "set", ("FLAIR", "T1", "contrast"), ("FLAIR", "T1", "T1ce"))
    with pytest.raises(UserError, match="its channels are FLAIR, T1, contrast"):
        find_cases(root, "brats2018", missing="zeros")


def test_a_wrong_choice_is_the_users_mistake(folder):
    with pytest.raises(UserError, match="--missing mean: choose error or zeros"):
        find_cases(folder, missing="mean")
    with pytest.raises(UserError, match=r"data\.missing"):
        TINY.changed({"data.missing": "mean"})


def dropped(chances, count=2000):
    config = AugmentConfig(modality_dropout=chances)
    return np.array([draw_augmentation(config, 3, 1, i, 4).dropped for i in range(count)])


def test_dropout_has_the_chances_asked_for_and_never_takes_all_four():
    drawn = dropped((0.5, 0.25, 0.0, 0.1))
    assert np.allclose(drawn.mean(0), (0.5, 0.25, 0.0, 0.1), atol=0.04)
    for chances in ((0.9,) * 4, (1.0,) * 4):
        drawn = dropped(chances)
        assert not drawn.all(1).any()
        kept = (~drawn)[(~drawn).sum(1) == 1]
        assert np.allclose(kept.mean(0), 0.25, atol=0.05), "each is as often the last one"
    assert (dropped((0.3,) * 4) == dropped((0.3,) * 4)).all()
    assert not dropped((0.0,) * 4).any()


def test_dropout_leaves_every_other_draw_as_it_was():
    off, on = (
        draw_augmentation(AugmentConfig(modality_dropout=chances), 5, 1, 7, 4)
        for chances in ((0.0,) * 4, (0.9,) * 4)
    )
    same = [name for name in vars(off) if np.array_equal(getattr(off, name), getattr(on, name))]
    assert sorted({*vars(off)} - {*same}) == ["dropped"]


def test_what_is_dropped_is_zero_and_nothing_else_changes():
    image, label = example()
    chosen = np.array([True, False, True, False])
    out, out_label = augment(image, label, [still(dropped=chosen), still()])
    assert not out[0, [0, 2]].any()
    assert (out[0, [1, 3]] == image[0, [1, 3]]).all() and (out[1] == image[1]).all()
    assert (out_label == label).all()
    plain = augment(image, label, draws_of_two(AugmentConfig(**OFF), 0, 1, 0))[0]
    assert (plain == image).all()


def test_a_case_keeps_what_it_has_where_dropout_would_take_it_all():
    image, label = example()
    image[:, [0, 1]] = 0
    both = still(dropped=np.array([False, False, True, True]))
    one = still(dropped=np.array([False, False, True, False]))
    out, _ = augment(image, label, [both, one])
    assert (out[0] == image[0]).all()
    assert not out[1, 2].any() and (out[1, 3] == image[1, 3]).all()


def test_every_augmentation_takes_a_channel_of_zeros():
    image, label = example()
    image[:, 2] = 0
    chances = {name: 1.0 for name in vars(AugmentConfig()) if name.endswith("_probability")}
    config = AugmentConfig(**chances, elastic_spacing_voxels=8.0)
    out, _ = augment(image, label, draws_of_two(config, 0, 1, 0))
    assert torch.isfinite(out).all() and not out[:, 2].any()
