"""Files that no case uses are counted and named, and several layouts in one folder are all read."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from segmamba.cli import app
from segmamba.data.cases import find_cases, list_cases, notes_on_unused, unused_files
from segmamba.data.image_files import PHANTOM_NOTE
from segmamba.data.source import find_data, source_changes
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests.conftest import write_case
from tests.data.test_layouts import decathlon, nnunet, save
from tests.tiny import TINY


@pytest.fixture
def truth(tmp_path):
    write_case(tmp_path / "elsewhere", "X")
    return read_scan(find_cases(tmp_path / "elsewhere")[0])


def test_brats_cases_beside_an_nnunet_folder_are_read_together(tmp_path, truth):
    data = tmp_path / "data"
    for number in range(4):
        write_case(data, f"BraTS20_Training_{number:03d}", shape=(16, 16, 16))
    nnunet(data / "Dataset001_BraTS", truth)
    found = list_cases(data)
    assert [case.id for case in found] == [
        "BRATS_001",
        *(f"BraTS20_Training_{number:03d}" for number in range(4)),
    ]
    assert notes_on_unused(data) == []
    with pytest.raises(UserError, match=r"more than one label convention .*--labels mixed"):
        find_cases(data)
    assert len(find_cases(data, "mixed")) == 5


def test_two_folders_with_a_dataset_json_are_read_together(tmp_path, truth):
    nnunet(tmp_path / "data" / "Dataset001", truth, "A_1")
    decathlon(tmp_path / "data" / "deeper" / "Task01", truth, "B_1")
    assert [case.id for case in find_cases(tmp_path / "data")] == ["A_1", "B_1"]


def test_an_unreadable_data_set_beside_others_is_refused_with_the_fix(tmp_path, truth):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}
    nnunet(tmp_path / "data" / "Dataset003_Liver", truth, content=content)
    write_case(tmp_path / "data", "BraTS20_Training_000", shape=(16, 16, 16))
    with pytest.raises(UserError, match=r"channels are CT.*give the folder of the one you mean"):
        list_cases(tmp_path / "data")


def test_the_same_case_in_two_layouts_is_a_duplicate(tmp_path, truth):
    nnunet(tmp_path / "data" / "Dataset001", truth, "BraTS20_Training_000")
    write_case(tmp_path / "data", "BraTS20_Training_000", shape=(16, 16, 16))
    with pytest.raises(UserError, match="2 cases have this id"):
        find_cases(tmp_path / "data", "mixed")


def test_every_file_that_no_case_uses_is_counted_and_the_first_are_named(tmp_path, truth):
    data = tmp_path / "data"
    folder = write_case(data, "BraTS20_Training_000", shape=(16, 16, 16))
    for name in ("a_adc.nii.gz", "b.nii", "c.mha", "d.nrrd", "predictions/P.nii.gz"):
        (data / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "BraTS20_Training_000_t1.nii.gz", data / name)
    (data / "notes.txt").write_text("no image")
    (data / "._BraTS20_Training_000_t1.nii.gz").write_bytes(b"junk")
    (note,) = notes_on_unused(data)
    assert note.endswith("that no case uses: 5 (a_adc.nii.gz, b.nii, c.mha and 2 more)")
    config = TINY.changed(source_changes(data, "auto"))
    assert note in find_data(config, tmp_path, steps=lambda label: lambda done, total: None).notes


def test_data_check_names_them_in_words_and_in_json(tmp_path):
    folder = write_case(tmp_path / "data", "BraTS20_Training_000", shape=(16, 16, 16))
    shutil.copy(folder / "BraTS20_Training_000_t1.nii.gz", tmp_path / "data" / "stray.nii.gz")
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data")])
    assert "that no case uses: 1 (" in result.output and "stray.nii.gz" in result.output
    result = CliRunner().invoke(app, ["data", "check", str(tmp_path / "data"), "--json"])
    assert any("stray.nii.gz" in note for note in json.loads(result.output)["notes"])


def test_labels_without_images_and_strays_of_a_dataset_json_folder_are_unused(tmp_path, truth):
    root = nnunet(tmp_path / "data", truth)
    shutil.copy(root / "labelsTr" / "BRATS_001.nii.gz", root / "imagesTr" / "stray.nii.gz")
    save(root / "labelsTs" / "BRATS_777.nii.gz", np.zeros((4, 4, 4), np.uint8))
    save(root / "imagesVal" / "BRATS_002_0000.nii.gz", np.ones((4, 4, 4), np.int16))
    assert [case.id for case in find_cases(root)] == ["BRATS_001"]
    assert [path.name for path in unused_files(root)[0]] == [
        "stray.nii.gz",
        "BRATS_002_0000.nii.gz",
        "BRATS_777.nii.gz",
    ]


def test_images_of_imagests_are_unlabelled_cases_and_not_unused(tmp_path, truth):
    root = nnunet(tmp_path / "data", truth)
    for channel in range(4):
        source = root / "imagesTr" / f"BRATS_001_{channel:04d}.nii.gz"
        (root / "imagesTs").mkdir(exist_ok=True)
        shutil.copy(source, root / "imagesTs" / f"BRATS_900_{channel:04d}.nii.gz")
    assert [(case.id, bool(case.label)) for case in find_cases(root)] == [
        ("BRATS_001", True),
        ("BRATS_900", False),
    ]
    assert notes_on_unused(root) == []


def test_4d_files_whose_ids_end_in_four_digits_are_no_channels(tmp_path, truth):
    root = decathlon(tmp_path / "data", truth, "patient_0001")
    (case,) = find_cases(root)
    assert case.id == "patient_0001" and case.channels and read_scan(case).label.any()
    (root / "labelsTr" / "patient_0001.nii.gz").unlink()
    assert find_cases(root)[0].channels


def test_phantoms_below_the_data_are_named_and_a_folder_that_holds_no_more_says_so(tmp_path):
    phantom = tmp_path / "data" / "Results" / "phantom" / "v1"
    write_case(phantom, "Phantom_0", shape=(16, 16, 16))
    (phantom / PHANTOM_NOTE).write_text("{}")
    with pytest.raises(UserError, match=r"holds 1 folder \(Results/phantom/v1; embedded phantoms"):
        list_cases(tmp_path / "data")
    assert len(find_cases(phantom)) == 1 and notes_on_unused(phantom) == []
    write_case(tmp_path / "data", "X", shape=(16, 16, 16))
    (note,) = notes_on_unused(tmp_path / "data")
    assert "folders of phantoms" in note and "Results/phantom/v1" in note


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scan.nii.gz", r"it holds 1 image file \(scan\.nii\.gz\)"),
        ("scan.dcm", r"1 DICOM file \(scan\.dcm; convert to NIfTI with dcm2niix\)"),
        ("scan.txt", "it holds no image"),
    ],
)
def test_a_folder_without_cases_says_what_it_holds(tmp_path, name, said):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"no BraTS case found; .*{said}"):
        list_cases(tmp_path)


def test_nii_twins_in_a_dataset_json_folder_are_errors(tmp_path, truth):
    root = nnunet(tmp_path / "data", truth, content=_without_ending())
    for folder, name in (("imagesTr", "BRATS_001_0002"), ("labelsTr", "BRATS_001")):
        shutil.copy(root / folder / f"{name}.nii.gz", root / folder / f"{name}.nii")
    (case,) = list_cases(root)
    texts = [finding.text for finding in case.findings]
    assert any("two files for channel 0002" in text for text in texts)
    assert any("two files for labelsTr" in text for text in texts)
    (root / "dataset.json").write_text(json.dumps(_without_ending() | {"file_ending": ".nii.gz"}))
    assert len(find_cases(root)) == 1 and len(unused_files(root)[0]) == 2
    (root / "dataset.json").write_text(json.dumps(_without_ending() | {"file_ending": ".png"}))
    with pytest.raises(UserError, match=r"its file_ending is '\.png'"):
        list_cases(root)


def _without_ending():
    from tests.data.test_layouts import NNUNET_JSON

    return {key: value for key, value in NNUNET_JSON.items() if key != "file_ending"}
