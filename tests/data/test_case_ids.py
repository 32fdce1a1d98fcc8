"""Ids from every layout are names of files, or are refused where cases are found."""

import json
import shutil

import pytest

from segmamba.data.case_ids import LONGEST_BYTES, harmless, id_fault
from segmamba.data.cases import find_cases, list_cases
from segmamba.errors import UserError
from segmamba.evaluation.segmentations import true_segmentations
from tests.conftest import write_case

BAD = {
    "/abs/x": "holds '/'",
    "../../x": "holds '/'",
    "a/b": "holds '/'",
    "a\\b": "holds '\\\\\\\\'",
    "..": "begins with '.'",
    ".x": "begins with '.'",
    "-x": "begins with '-'",
    " x": "begins with ' '",
    "x ": "ends with ' '",
    "x.": "ends with '.'",
    "   ": "is empty",
    "x\0y": "holds '\\\\x00'",
    "x\ny": "holds '\\\\n'",
    "x\u202ey": "holds '\\\\u202e'",
    "C:x": "holds ':'",
    "NUL": "is the name of a device",
    "com1.2": "is the name of a device",
    "x" * 300: f"at most {LONGEST_BYTES}",
    "ü" * 100: "has 200 bytes",
}


def datalist(folder, ids):
    """A datalist of one case an id, each with files of its own."""
    entries = []
    for number, case_id in enumerate(ids):
        files = write_case(folder / "files", f"F{number}", shape=(16, 16, 16))
        images = [str(files / f"F{number}_{part}.nii.gz") for part in ("t1", "t1ce", "t2", "flair")]
        label = str(files / f"F{number}_seg.nii.gz")
        entries.append({"id": case_id, "image": images, "label": label})
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries}))
    return path


@pytest.mark.parametrize(("case_id", "fault"), BAD.items(), ids=map(ascii, range(len(BAD))))
def test_an_id_that_cannot_name_a_file_is_refused_in_one_line(tmp_path, case_id, fault):
    path = datalist(tmp_path, [case_id, "good"])
    with pytest.raises(UserError, match=fault) as error:
        find_cases(path)
    assert str(error.value).isprintable() and "rename the case" in str(error.value)
    faulty, good = list_cases(path)
    assert id_fault(faulty.id) is None and id_fault(faulty.patient) is None
    assert good.id == "good" and not good.findings


@pytest.mark.parametrize(
    "case_id",
    [
        "BraTS-GLI-00005-000",
        "Brats18_2013_2_1",
        "TCGA-02-0006_1996.08.23",
        "sub-01_ses-02",
        "Müller 3",
        "x" * LONGEST_BYTES,
        "conference",
    ],
)
def test_ids_of_the_usual_data_sets_are_good(case_id):
    assert id_fault(case_id) is None


def test_ids_that_differ_only_in_capitals_or_accents_are_one_file_elsewhere(tmp_path):
    path = datalist(tmp_path, ["Case_A", "case_a", "é", "e\u0301", "other"])
    texts = [[f.text for f in case.findings] for case in list_cases(path)]
    assert [len(found) for found in texts] == [1, 1, 1, 1, 0] or sum(map(len, texts)) == 4
    with pytest.raises(UserError, match="differ only in capitals or accents"):
        find_cases(path)


def test_two_faulty_ids_stay_two_cases():
    assert harmless("a/b") != harmless("a_b") and harmless("a/b") == harmless("a/b")


def test_a_file_whose_name_brings_a_bad_id_is_refused_too(tmp_path):
    write_case(tmp_path, "-x", shape=(16, 16, 16))
    write_case(tmp_path, "good", shape=(16, 16, 16))
    with pytest.raises(UserError, match=r"the case id '-x' .* begins with '-'"):
        find_cases(tmp_path)


def test_bad_ids_are_not_scored(tmp_path):
    with pytest.raises(UserError, match="holds '/'"):
        true_segmentations(datalist(tmp_path, ["../x"]))
    folder = tmp_path / "plain"
    folder.mkdir()
    shutil.copy(tmp_path / "files" / "F0" / "F0_seg.nii.gz", folder / "-x.nii.gz")
    with pytest.raises(UserError, match="begins with '-'"):
        true_segmentations(folder, "brats2018")


def test_a_file_of_a_datalist_with_a_null_byte_is_one_line(tmp_path):
    path = datalist(tmp_path, ["a"])
    path.write_text(path.read_text().replace("F0_t2", "F0_\\u0000t2"))
    with pytest.raises(UserError, match=r"is no file's name"):
        list_cases(path)
