import gzip
import shutil

import pytest

from segmamba.data.case import patient_of
from segmamba.data.cases import find_cases, list_cases, notes_on
from segmamba.data.common_classes import read_as
from segmamba.data.image_files import PHANTOM_NOTE
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests.conftest import NEW_NAMES, write_case


def test_cases_are_found_nested_flat_and_plain(tmp_path):
    write_case(tmp_path / "HGG", "Brats18_A_1")
    write_case(tmp_path / "LGG" / "deeper", "Brats18_B_1", ending=".nii")
    for file in write_case(tmp_path / "elsewhere", "Brats18_C_1").iterdir():
        shutil.move(file, tmp_path)
    cases = find_cases(tmp_path)
    assert [case.id for case in cases] == ["Brats18_A_1", "Brats18_B_1", "Brats18_C_1"]
    assert {case.convention for case in cases} == {"brats2018"}
    assert cases[1].images["T1ce"].name == "Brats18_B_1_t1ce.nii"


def test_linked_case_folders_are_found_and_links_in_a_circle_end(tmp_path):
    write_case(tmp_path / "store", "Brats18_A_1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "Brats18_A_1").symlink_to(tmp_path / "store" / "Brats18_A_1")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert [case.id for case in find_cases(tmp_path / "data")] == ["Brats18_A_1"]


def test_phantoms_of_earlier_studies_below_the_data_are_no_cases(tmp_path):
    write_case(tmp_path, "Brats18_A_1")
    write_case(tmp_path / "Results" / "phantom" / "few", "Phantom_0")
    (tmp_path / "Results" / "phantom" / "few" / PHANTOM_NOTE).write_text("{}")
    assert [case.id for case in find_cases(tmp_path)] == ["Brats18_A_1"]
    assert len(find_cases(tmp_path / "Results" / "phantom" / "few")) == 1


def test_the_hyphenated_naming_is_2023s(tmp_path):
    write_case(tmp_path, "BraTS-GLI-00005-001", names=NEW_NAMES, et_value=3)
    (case,) = find_cases(tmp_path)
    assert case.convention == "brats2023" and case.patient == "BraTS-GLI-00005"
    assert case.images["FLAIR"].name.endswith("-t2f.nii.gz")


@pytest.mark.parametrize(
    ("case_id", "expected"),
    [
        ("BraTS-GLI-00005-000", "brats2023"),
        ("BraTS-GLI-00005-100", "brats2024"),
        ("BraTS-GLI-00005-101", "brats2024"),
        ("BraTS-SSA-00002-000", "brats2023"),
        ("BraTS-MEN-00004-000", "brats2023"),
        ("BraTS-MET-00001-000", "brats2024"),
        ("BraTS-PED-00002-000", "brats2024ped"),
        ("BraTS-GoAT-00010", "brats2023"),
    ],
)
def test_the_collection_and_the_time_point_bring_the_convention(tmp_path, case_id, expected):
    write_case(tmp_path, case_id, names=NEW_NAMES, et_value=3)
    assert find_cases(tmp_path)[0].convention == expected
    assert find_cases(tmp_path, labels="brats2018")[0].convention == "brats2018", (
        "a stated convention wins"
    )


def test_a_study_says_what_its_labels_merge_and_what_the_naming_leaves_open(tmp_path):
    write_case(tmp_path, "BraTS-PED-00002-000", names=NEW_NAMES, et_value=3)
    (warned,) = notes_on(find_cases(tmp_path))
    merged, _ = notes_on(read_as(find_cases(tmp_path), "glioma"))
    assert "CC (3) counts as NCR, like NETC (2), and is written as 2" in merged
    assert "--labels brats2023" in warned
    assert notes_on(find_cases(tmp_path, "brats2023")) == []


def test_conventions_mix_only_where_that_is_asked_for(tmp_path):
    write_case(tmp_path, "BraTS-GLI-00005-000", names=NEW_NAMES, et_value=3)
    write_case(tmp_path, "BraTS-GLI-00005-100", names=NEW_NAMES, et_value=3)
    with pytest.raises(
        UserError,
        match=r"more than one label convention \(BraTS-GLI-00005-000 is brats2023, "
        r".*--labels mixed",
    ):
        find_cases(tmp_path)
    assert [case.convention for case in find_cases(tmp_path, "mixed")] == ["brats2023", "brats2024"]
    assert {case.convention for case in find_cases(tmp_path, "brats2024")} == {"brats2024"}


def test_the_misnamed_segmentation_of_kaggles_2020_copy_is_known_and_reported(tmp_path):
    folder = write_case(tmp_path, "BraTS20_Training_355", ending=".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    (case,) = find_cases(tmp_path)
    assert case.label.name == "W39_1998.09.19_Segm.nii" and read_scan(case).label.any()
    assert "W39_1998.09.19_Segm.nii is taken as its segmentation" in notes_on([case])[0]


def test_any_other_misnamed_segmentation_is_pointed_out(tmp_path):
    folder = write_case(tmp_path, "BraTS20_Training_001")
    (folder / "BraTS20_Training_001_seg.nii.gz").rename(folder / "tumour.nii.gz")
    (case,) = find_cases(tmp_path)
    assert (
        case.label is None
        and "rename it BraTS20_Training_001_seg.nii.gz if it is one" in case.findings[0].text
    )


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
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "X_t2.nii.gz").unlink(),
            r"X: modality T2 is missing, expected .*X_t2\.nii\.gz",
        ),
        (
            lambda folder: (folder / "X_t2.nii").write_bytes(
                gzip.decompress((folder / "X_t2.nii.gz").read_bytes())
            ),
            "X: two files for T2",
        ),
        (
            lambda folder: write_case(folder.parent, "Y-1", names=NEW_NAMES),
            "more than one label convention",
        ),
    ],
)
def test_a_broken_layout_is_named(tmp_path, spoil, message):
    spoil(write_case(tmp_path, "X"))
    with pytest.raises(UserError, match=message):
        find_cases(tmp_path)


def test_faulty_cases_are_listed_with_all_their_errors_and_the_others_stay_clean(tmp_path):
    folder = write_case(tmp_path, "X")
    write_case(tmp_path, "Y")
    (folder / "X_t1.nii.gz").unlink()
    (folder / "X_t2.nii.gz").unlink()
    shutil.copy(folder / "X_seg.nii.gz", tmp_path)
    faulty, whole = list_cases(tmp_path)
    assert [finding.kind for finding in faulty.findings] == [
        "missing modality",
        "missing modality",
        "duplicate segmentation",
    ]
    assert whole.findings == () and set(faulty.images) == {"T1ce", "FLAIR"}


def test_a_missing_folder_and_a_folder_without_cases_have_messages_of_their_own(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(UserError, match="no BraTS case found"):
        find_cases(tmp_path)
