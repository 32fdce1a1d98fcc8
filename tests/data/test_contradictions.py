"""A datalist or dataset.json that contradicts its files, or itself, is refused."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from segmamba.data.cases import find_cases, list_cases, notes_on
from segmamba.data.check import check
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, write_case
from tests.data.test_layouts import DECATHLON_JSON, NNUNET_JSON, decathlon, nnunet, save

PARTS = ("t1", "t1ce", "t2", "flair")
CHANNELS = ["T1", "T1ce", "T2", "FLAIR"]


@pytest.fixture
def folder(tmp_path):
    """Two cases of BraTS 2020; their files are listed by the datalists of this file."""
    for number in range(2):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}", shape=(16, 16, 16), seed=number)
    return tmp_path


def entry(number=0, parts=PARTS, label="seg"):
    case = f"BraTS20_Training_{number:03d}"
    return {
        "image": [f"{case}/{case}_{part}.nii.gz" for part in parts],
        "label": f"{case}/{case}_{label}.nii.gz",
    }


def datalist(folder, *entries, **content):
    path = folder / "list.json"
    path.write_text(json.dumps({**content, "training": entries}))
    return path


@pytest.mark.parametrize(
    ("entries", "content", "message"),
    [
        (
            [entry()],
            {"channel_names": ["T1ce", "T1", "T2", "FLAIR"]},
            r"gives .*_t1ce\.nii\.gz as T1, but its name says T1ce",
        ),
        (
            [entry()],
            {"channel_names": ["T1", "T1ce", "T2", "T1gd"]},
            "names T1ce twice, as channels 1 and 3",
        ),
        (
            [entry()],
            {"channel_names": CHANNELS, "modality": ["FLAIR", "T1", "T1ce", "T2"]},
            "channel_names and modality contradict each other",
        ),
        ([entry(parts=("t1", "t1ce", "t2", "t2"))], {}, "two files for T2"),
        (
            [entry(parts=("t1", "t1ce", "t2", "flair", "seg"))],
            {},
            r"_seg\.nii\.gz as an image, but its name says segmentation",
        ),
        (
            [entry(parts=("t1", "t1ce", "t2", "seg"))],
            {"channel_names": CHANNELS},
            r"_seg\.nii\.gz as FLAIR, but its name says label",
        ),
        ([entry(label="t2")], {}, r"_t2\.nii\.gz as label, but its name says T2"),
        ([entry(parts=("t1", "t1ce", "t2"))], {"channel_names": CHANNELS}, "lists no FLAIR for it"),
        (
            [entry(parts=(*PARTS, "seg"))],
            {"channel_names": CHANNELS},
            "lists 5 images for it but names 4 channels",
        ),
        (
            [entry(), {**entry(1), "label": entry()["label"]}],
            {},
            r"_seg\.nii\.gz is used as label of .*000 and label of .*001; give each its own file",
        ),
        ([entry(), {**entry(), "id": "another"}], {}, r"_t1\.nii\.gz is used as T1 of"),
    ],
)
def test_a_contradicting_datalist_is_refused(folder, entries, content, message):
    content = {"labels": {"ED": 2, "NCR": 1, "ET": 4, "background": 0}, **content}
    with pytest.raises(UserError, match=message) as error:
        find_cases(datalist(folder, *entries, **content))
    assert "\n" not in str(error.value)


def test_one_faulty_entry_leaves_the_others_whole(folder):
    path = datalist(folder, entry(parts=("t1", "t1ce", "t2", "t2")), entry(1))
    faulty, whole = list_cases(path)
    assert faulty.findings and not whole.findings


def test_a_word_that_all_names_share_is_no_contradiction(folder):
    for part in PARTS:
        place = folder / "BraTS20_Training_000"
        shutil.copy(place / f"BraTS20_Training_000_{part}.nii.gz", place / f"{part}_to_t1.nii.gz")
    listed = {**entry(), "image": [f"BraTS20_Training_000/{part}_to_t1.nii.gz" for part in PARTS]}
    path = datalist(
        folder,
        listed,
        channel_names=CHANNELS,
        labels={"ED": 2, "NCR": 1, "ET": 4, "background": 0},
    )
    (case,) = find_cases(path)
    assert case.images["FLAIR"].name == "flair_to_t1.nii.gz"


def test_declared_labels_that_the_names_contradict_are_noted(folder):
    labels = {"background": 0, "ED": 1, "NCR": 2, "ET": 3}
    (case,) = find_cases(datalist(folder, entry(), labels=labels))
    assert case.convention == "msd"
    assert "named as those of brats2018" in notes_on([case])[0]


def test_links_to_one_file_are_one_file(folder):
    place = folder / "BraTS20_Training_000"
    (place / "BraTS20_Training_000_t1ce.nii.gz").unlink()
    (place / "BraTS20_Training_000_t1ce.nii.gz").symlink_to("BraTS20_Training_000_t1.nii.gz")
    with pytest.raises(UserError, match="is used as T1 of BraTS20_Training_000 and T1ce of"):
        find_cases(folder)


@pytest.fixture
def truth(tmp_path):
    write_case(tmp_path / "plain", "X")
    return read_scan(find_cases(tmp_path / "plain")[0])


@pytest.mark.parametrize("layout", [nnunet, decathlon])
def test_a_channel_that_a_dataset_json_names_twice_is_refused(tmp_path, truth, layout):
    names = {"0": "T1", "1": "T1w", "2": "T2", "3": "FLAIR", "4": "T1ce"}
    root = layout(tmp_path / "data", truth, content=NNUNET_JSON | {"channel_names": names})
    with pytest.raises(UserError, match=r"dataset\.json: names T1 twice, as channels 0 and 1"):
        find_cases(root)


def test_numbers_against_names_in_an_nnunet_folder_are_a_contradiction(tmp_path, truth):
    root = nnunet(tmp_path / "data", truth)
    for channel, name in enumerate(("t1ce", "t1", "t2", "flair")):
        (root / "imagesTr" / f"BRATS_001_{channel:04d}.nii.gz").rename(
            root / "imagesTr" / f"BRATS_001_{name}_{channel:04d}.nii.gz"
        )
    texts = [finding.text for case in list_cases(root) for finding in case.findings]
    assert any("_t1ce_0000.nii.gz as T1, but its name says T1ce" in text for text in texts)


def test_a_numbered_image_of_a_channel_that_is_not_named_is_an_error(tmp_path, truth):
    root = nnunet(tmp_path / "data", truth)
    images = root / "imagesTr"
    shutil.copy(images / "BRATS_001_0000.nii.gz", images / "BRATS_001_0004.nii.gz")
    with pytest.raises(UserError, match=r"BRATS_001_0004\.nii\.gz is of channel 0004, which .*"):
        find_cases(root)
    names = {**NNUNET_JSON["channel_names"], "4": "ADC"}
    (root / "dataset.json").write_text(json.dumps(NNUNET_JSON | {"channel_names": names}))
    assert len(find_cases(root)) == 1


def test_a_4d_file_with_more_channels_than_are_named_is_an_error(tmp_path, truth):
    root = decathlon(tmp_path / "data", truth)
    path = root / "imagesTr" / "BRATS_001.nii.gz"
    array = np.asanyarray(nibabel.load(path).dataobj)
    save(path, np.concatenate([array, array[..., :1]], axis=-1))
    (checked,) = check(root)
    assert any("has 5 channels but 4 are named" in finding.text for finding in checked.findings)
    names = {**DECATHLON_JSON["modality"], "4": "ADC"}
    (root / "dataset.json").write_text(json.dumps(DECATHLON_JSON | {"modality": names}))
    assert nibabel.load(path).affine.tolist() == BRATS_AFFINE.tolist()
    read_scan(find_cases(root)[0])
