import gzip
import shutil

import pytest

from segmamba.data.cases import find_cases, patient_of
from segmamba.errors import UserError
from tests.conftest import NEW_NAMES, write_case


def test_cases_are_found_nested_flat_and_plain(tmp_path):
    write_case(tmp_path / "HGG", "Brats18_A_1")
    write_case(tmp_path / "LGG" / "deeper", "Brats18_B_1", ending=".nii")
    for file in write_case(tmp_path / "elsewhere", "Brats18_C_1").iterdir():
        shutil.move(file, tmp_path)
    found = find_cases(tmp_path)
    assert [case.id for case in found] == ["Brats18_A_1", "Brats18_B_1", "Brats18_C_1"]
    assert {case.convention for case in found} == {"brats2018"}
    assert found[1].images["T1ce"].name == "Brats18_B_1_t1ce.nii"


def test_the_2023_naming_brings_its_own_convention(tmp_path):
    write_case(tmp_path, "BraTS-GLI-00005-100", names=NEW_NAMES, et_value=3)
    (case,) = find_cases(tmp_path)
    assert case.convention == "brats2023" and case.patient == "BraTS-GLI-00005"
    assert case.images["FLAIR"].name.endswith("-t2f.nii.gz")


def test_the_convention_can_be_stated(tmp_path):
    write_case(tmp_path, "X")
    assert find_cases(tmp_path, labels="msd")[0].convention == "msd"
    with pytest.raises(UserError, match="choose one of brats2018"):
        find_cases(tmp_path, labels="brats1999")


def test_time_points_of_one_person_share_a_patient():
    assert patient_of("BraTS-GLI-00005-101") == patient_of("BraTS-GLI-00005-100")
    assert patient_of("Brats18_2013_2_1") == "Brats18_2013_2"
    assert patient_of("BraTS20_Training_001") != patient_of("BraTS20_Training_002")
    assert patient_of("BraTS2021_00000") == "BraTS2021_00000"


def test_a_case_without_segmentation_is_found_as_such(tmp_path):
    write_case(tmp_path, "X", label=False)
    assert find_cases(tmp_path)[0].label is None


def test_hidden_files_of_macos_are_skipped(tmp_path):
    folder = write_case(tmp_path, "X")
    (folder / "._X_t1.nii.gz").write_bytes(b"junk")
    assert len(find_cases(tmp_path)) == 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "X_t2.nii.gz").unlink(), r"X: modality T2 is missing, expected .*X_t2\.nii\.gz"),
        (lambda folder: (folder / "X_t2.nii").write_bytes(gzip.decompress((folder / "X_t2.nii.gz").read_bytes())), "X: two files for T2"),
        (lambda folder: write_case(folder.parent, "Y-1", names=NEW_NAMES), "more than one label convention"),
    ],
)
def test_a_broken_layout_is_named(tmp_path, spoil, told):
    spoil(write_case(tmp_path, "X"))
    with pytest.raises(UserError, match=told):
        find_cases(tmp_path)


def test_no_folder_and_no_cases_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(UserError, match="no BraTS case found"):
        find_cases(tmp_path)
