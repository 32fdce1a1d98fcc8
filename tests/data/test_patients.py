import time

import pytest

from segmamba.config import DataConfig
from segmamba.data.case import Case
from segmamba.data.patient_names import PATTERNS, patient_of, pattern_of
from segmamba.data.patients import describe_patients, with_patients
from segmamba.errors import UserError

TIME_POINTS = [
    "P01_s1",
    "P01_s12",
    "P01-s2",
    "P01_ses-02",
    "P01_session1",
    "P01_visit2",
    "P01_v2",
    "P01_tp1",
    "P01-T0",
    "P01_t1",
    "P01_pre",
    "P01_post",
    "P01_preop",
    "P01_post-op",
    "P01_baseline",
    "P01_followup2",
    "P01_fu1",
    "P01_FU",
    "P01_week12",
    "P01_M06",
    "P01_day3",
    "P01_scan2",
    "P01_timepoint_3",
    "P01_Timepoint-3",
    "P01_20190302",
    "P01_2019-03-02",
    "P01_2019.03.02",
    "P01_03-02-2019",
    "P01_s1_post",
    "P01_time2",
    "P01 visit 2",
    "P01_MR2",
    "P01_MR_d0129",
]
PATIENTS = [
    "BraTS20_Training_001",
    "BraTS20_Validation_012",
    "BraTS2021_00001",
    "BRATS_001",
    "case_001",
    "case_1",
    "BraTS-GoAT-00001",
    "Phantom_001",
    "glioma_s1",
    "HGG_t12",
    "GBM_20190302",
    "tumour_scan_001",
    "IXI012-HH-1211",
    "EGD-0001",
    "Mets_005",
    "P01",
    "P01_1",
    "12345678",
    "UCSF-PDGM-0004",
    "sub-01",
]


def cases(*ids):
    return [Case(i, patient_of(i), {}, None, "brats2018") for i in ids]


def patients(ids, rule):
    return [case.patient for case in with_patients(cases(*ids), rule)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.dataset)
def test_the_time_points_of_each_usual_data_set_are_one_patient(pattern):
    first, second = pattern.example
    assert patient_of(first) == patient_of(second)
    assert pattern_of(first) is pattern and pattern_of(second) is pattern
    assert describe_patients(cases(first, second), "") == (
        f"2 cases of 1 patients, by the pattern of {pattern.dataset}"
    )


@pytest.mark.parametrize("case_id", TIME_POINTS)
def test_an_ending_that_speaks_of_time_is_taken_off(case_id):
    assert patient_of(case_id) == "P01"


@pytest.mark.parametrize("case_id", PATIENTS)
def test_ids_that_name_no_time_point_are_patients(case_id):
    assert patient_of(case_id) == case_id


def test_a_guess_says_that_it_is_one_and_shows_only_where_a_patient_has_several_cases():
    line = describe_patients(cases("P01_s1", "P01_s2", "P02_s1"), "")
    assert line == (
        "3 cases of 2 patients, by a guess from names such as P01_s1 and P01_s2 "
        "(data.patients overrules it)"
    )
    assert describe_patients(cases("P01_s1", "P02_s1"), "") == (
        "2 cases of 2 patients: no two names are known to be of one person"
    )


def test_several_data_sets_are_all_named():
    found = cases(
        "UPENN-GBM-00001_11", "UPENN-GBM-00001_21", "sub-1_ses-1", "sub-1_ses-2", "case_1"
    )
    assert describe_patients(found, "") == (
        "5 cases of 3 patients, by the pattern of UPENN-GBM and by the pattern of BIDS"
    )


def test_numbers_that_may_be_scans_or_patients_are_asked_about():
    line = describe_patients(cases("P01_1", "P01_2", "P02_1"), "")
    assert line.startswith("3 cases of 3 patients") and (
        "if P01_1 and P01_2 are of one person, say so with data.patients" in line
    )
    assert "if" not in describe_patients(cases("BraTS20_Training_001", "BraTS20_Training_002"), "")


def test_an_expression_overrules_the_names():
    ids = ["P01_1", "P01_2", "BraTS-GLI-00005-100", "BraTS-GLI-00005-101"]
    assert patients(ids, r"(P\d+|GLI-\d+-\d+)") == [
        "P01",
        "P01",
        "GLI-00005-100",
        "GLI-00005-101",
    ]
    assert patients(["a_x_1"], r"(a)_(?P<patient>x)_(\d)") == ["x"]
    found = with_patients(cases("P01_1", "P01_2"), r"(P\d+)")
    assert describe_patients(found, r"(P\d+)") == "2 cases of 1 patients, by data.patients"


@pytest.mark.parametrize("rule", [r"(P\d+)_", r"(\D*)\d"])
def test_an_expression_that_finds_no_patient_in_a_case_is_refused(rule):
    with pytest.raises(UserError, match=r"finds no patient in 07_1; correct the expression"):
        patients(["P01_1", "07_1"], rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (r"P\d+", "has 0 groups"),
        (r"(P)(\d+)", "has 2 groups"),
        (r"(P\d+", "is no regular expression"),
        ("(" * 500, "at most 500 characters|is no regular expression"),
        ("(a" + "b" * 600 + ")", "at most 500 characters"),
    ],
)
def test_an_expression_is_checked_when_it_is_set(rule, message):
    with pytest.raises(UserError, match=message):
        DataConfig(patients=rule)


def test_an_expression_that_would_run_for_years_is_stopped(monkeypatch):
    monkeypatch.setattr("segmamba.data.patients.MATCHING_S", 1)
    DataConfig(patients=r"((?:a+)+)b")
    started = time.monotonic()
    with pytest.raises(UserError, match="not done with 1 ids after 1 s"):
        patients(["a" * 60], r"((?:a+)+)b")
    assert time.monotonic() - started < 30


def csv(tmp_path, text):
    path = tmp_path / "who.csv"
    path.write_text(text)
    return str(path)


def test_a_csv_file_overrules_the_names(tmp_path):
    path = csv(tmp_path, "\ufeffcase,site,patient\nA,1,Smith\nB , 2, Smith\nC,1,Jones\n\n")
    assert DataConfig(patients=path).patients == path
    assert patients(["A", "B", "C"], path) == ["Smith", "Smith", "Jones"]
    assert describe_patients(with_patients(cases("A", "B", "C"), path), path) == (
        f"3 cases of 2 patients, by {path} (data.patients)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id;patient\nA;1\n", "its first line is 'id;patient'"),
        ("", "needs the header case,patient"),
        ("case,patient\nA,1\n", "lacks the case B .*add the row"),
        ("case,patient\nA,1\nB,1\nC,2\n", "names no case of the data: C .*drop the row"),
        ("case,patient\nA,1\nB,1\nA,1\n", "line 4 names A again"),
        ("case,patient\nA,1\nB,\n", "line 3 lacks its case or patient"),
        ("case,patient\nA,1\nB\n", "line 3 lacks its case or patient"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_the_reason(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        patients(["A", "B"], csv(tmp_path, text))


def test_a_csv_file_that_is_absent_is_named_when_it_is_read(tmp_path):
    rule = str(tmp_path / "gone.csv")
    DataConfig(patients=rule)
    with pytest.raises(UserError, match=r"gone\.csv: cannot be read"):
        patients(["A"], rule)


@pytest.mark.parametrize(
    "ids",
    [("p1a", "p1b", "p2a"), ("P01.1", "P01.2", "P02.1"), ("P1 (1)", "P1 (2)", "P2 (1)")],
)
def test_names_that_may_be_of_one_person_are_asked_about(ids):
    cases = [Case(name, patient_of(name), {}, None, "brats2018") for name in ids]
    said = describe_patients(cases, "")
    assert said.startswith("3 cases of 3 patients")
    assert f"if {ids[0]} and {ids[1]} are of one person, say so with data.patients" in said
