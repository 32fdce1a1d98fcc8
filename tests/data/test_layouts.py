"""Decathlon, nnU-Net raw and MONAI datalists, each made from one and the same case."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from segmamba.data.cases import find_cases, list_cases, notes_on
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import MODALITIES, from_classes
from segmamba.data.layouts.datalist import folds_of
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, write_case

DECATHLON_JSON = {
    "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
    "labels": {
        "0": "background",
        "1": "edema",
        "2": "non-enhancing tumor",
        "3": "enhancing tumour",
    },
    "training": [],
}
NNUNET_JSON = {
    "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
    "labels": {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": [3],
    },
    "regions_class_order": [1, 2, 3],
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def truth(tmp_path):
    """The Scan that every layout must give back."""
    write_case(tmp_path / "plain", "X")
    return read_scan(find_cases(tmp_path / "plain")[0])


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, BRATS_AFFINE), path)


def stored(scan):
    """Images in MODALITIES order and classes, as the files of `write_case` hold them.

    Their x and y run the other way.
    """
    return scan.image[:, ::-1, ::-1].astype(np.int16), scan.label[::-1, ::-1]


def decathlon(root, scan, case_id="BRATS_001", content=DECATHLON_JSON):
    images, classes = stored(scan)
    by_name = dict(zip(MODALITIES, images, strict=True))
    save(
        root / "imagesTr" / f"{case_id}.nii.gz",
        np.stack([by_name[m] for m in ("FLAIR", "T1", "T1ce", "T2")], axis=-1),
    )
    save(root / "labelsTr" / f"{case_id}.nii.gz", from_classes(classes, "msd", GLIOMA))
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def nnunet(root, scan, case_id="BRATS_001", content=NNUNET_JSON):
    images, classes = stored(scan)
    for channel, image in enumerate(images):
        save(root / "imagesTr" / f"{case_id}_{channel:04d}.nii.gz", image)
    save(root / "labelsTr" / f"{case_id}.nii.gz", from_classes(classes, "msd", GLIOMA))
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def datalist(root, scan):
    decathlon(root / "files", scan)
    entry = {
        "image": "files/imagesTr/BRATS_001.nii.gz",
        "label": "files/labelsTr/BRATS_001.nii.gz",
        "fold": 2,
    }
    path = root / "datalist.json"
    path.write_text(
        json.dumps(
            {
                **DECATHLON_JSON,
                "training": [entry],
                "testing": ["files/imagesTr/BRATS_001.nii.gz"][:0],
            }
        )
    )
    return path


@pytest.mark.parametrize("layout", [decathlon, nnunet, datalist])
def test_every_layout_gives_the_same_scan_by_its_own_channel_order_and_labels(
    tmp_path, truth, layout
):
    (case,) = find_cases(layout(tmp_path / "other", truth))
    scan = read_scan(case)
    assert (case.id, case.patient, case.convention) == ("BRATS_001", "BRATS_001", "msd")
    assert (scan.image == truth.image).all() and (scan.label == truth.label).all()
    assert np.allclose(scan.affine, truth.affine)


def test_a_4d_file_counts_once_among_the_files_of_a_case(tmp_path, truth):
    (case,) = find_cases(decathlon(tmp_path / "Task01", truth))
    assert [path.parent.name for path in case.files] == ["imagesTr", "labelsTr"]


def test_the_decathlon_is_found_from_the_folder_above_without_macos_files(tmp_path, truth):
    root = decathlon(tmp_path / "download" / "Task01_BrainTumour", truth)
    (root / "imagesTr" / "._BRATS_001.nii.gz").write_bytes(b"junk")
    save(root / "imagesTs" / "BRATS_485.nii.gz", np.ones((48, 48, 32, 4), np.int16))
    assert [(case.id, case.label is None) for case in find_cases(tmp_path / "download")] == [
        ("BRATS_001", False),
        ("BRATS_485", True),
    ]


def test_nnunet_channels_are_taken_by_name_not_by_number(tmp_path, truth):
    content = NNUNET_JSON | {"channel_names": {"0": "FLAIR", "1": "T2w", "2": "T1gd", "3": "T1w"}}
    (case,) = find_cases(nnunet(tmp_path / "Dataset137", truth, content=content))
    assert (
        case.images["T1"].name == "BRATS_001_0003.nii.gz"
        and case.images["FLAIR"].name == "BRATS_001_0000.nii.gz"
    )


def test_a_missing_channel_is_named_and_a_label_without_images_too(tmp_path, truth):
    root = nnunet(tmp_path / "Dataset137", truth)
    (root / "imagesTr" / "BRATS_001_0002.nii.gz").unlink()
    shutil.copy(root / "labelsTr" / "BRATS_001.nii.gz", root / "labelsTr" / "BRATS_002.nii.gz")
    first, second = list_cases(root)
    assert (
        "modality T2 is missing" in first.findings[0].text
        and "BRATS_001_0002.nii.gz" in first.findings[0].text
    )
    assert "BRATS_002.nii.gz has no images" in second.findings[0].text


def test_a_stated_convention_wins_over_dataset_json_and_that_is_noted(tmp_path, truth):
    cases = find_cases(nnunet(tmp_path / "Dataset137", truth), "brats2023")
    assert cases[0].convention == "brats2023" and "declares msd" in notes_on(cases)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": {"background": 0, "lesion": 1}},
            r"those of no known convention; state one with --labels",
        ),
        ({"labels": None}, r"no known convention"),
        ({"channel_names": {"0": "CT"}}, r"its channels are CT; needed are T1, T1ce, T2, FLAIR"),
        ({"channel_names": None}, r"names no channels; add \"channel_names\""),
    ],
)
def test_a_dataset_json_that_does_not_tell_enough_is_refused(tmp_path, truth, change, message):
    with pytest.raises(UserError, match=rf"dataset\.json: .*{message}"):
        find_cases(nnunet(tmp_path / "Dataset137", truth, content=NNUNET_JSON | change))


def test_a_declared_number_of_cases_that_is_not_found_is_noted(tmp_path, truth):
    root = nnunet(tmp_path / "Dataset137", truth, content=NNUNET_JSON | {"numTraining": 484})
    (note,) = notes_on(find_cases(root))
    assert "declares 484 training cases" in note and note.endswith("holds 1")


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1"])
def test_a_channel_number_that_is_none_is_refused(tmp_path, truth, number):
    names = {number: "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    root = nnunet(tmp_path / "Dataset137", truth, content=NNUNET_JSON | {"channel_names": names})
    with pytest.raises(UserError, match="needed are T1, T1ce, T2, FLAIR"):
        find_cases(root)


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_damaged_dataset_json_is_named(tmp_path, truth, text):
    root = nnunet(tmp_path / "Dataset137", truth)
    (root / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: "):
        find_cases(root)


def test_a_datalist_of_four_brats_files_needs_no_channel_names_and_keeps_folds(tmp_path):
    for number in range(2):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}")
    entries = [
        {
            "image": [f"{c}/{c}_{m}.nii.gz" for m in ("flair", "t1ce", "t1", "t2")],
            "label": f"{c}/{c}_seg.nii.gz",
            "fold": fold,
        }
        for fold, c in enumerate(("BraTS20_Training_000", "BraTS20_Training_001"))
    ]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": entries}))
    first, second = find_cases(path)
    assert (
        first.images["T1ce"].name == "BraTS20_Training_000_t1ce.nii.gz"
        and second.convention == "brats2018"
    )
    assert folds_of(path) == {"BraTS20_Training_000": 0, "BraTS20_Training_001": 1}
    read_scan(first)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": []}, "lists no cases"),
        ({"training": [{"image": "a.nii.gz"}]}, "names no channels"),
        ({"training": [{"label": "a.nii.gz"}]}, '"image" is missing'),
        (
            {"training": [{"image": ["X_t1.nii", "X_t2.nii", "X_flair.nii"]}]},
            "lists no T1ce for it",
        ),
    ],
)
def test_a_datalist_that_does_not_tell_enough_is_refused(tmp_path, content, message):
    (tmp_path / "list.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        find_cases(tmp_path / "list.json")


def test_a_4d_file_with_too_few_channels_is_named(tmp_path, truth):
    root = decathlon(tmp_path / "Task01", truth)
    save(root / "imagesTr" / "BRATS_001.nii.gz", np.ones((48, 48, 32, 2), np.int16))
    with pytest.raises(
        UserError,
        match=r"BRATS_001: .*BRATS_001\.nii\.gz has 2 channels, expected T1ce as number 2",
    ):
        read_scan(find_cases(root)[0])
