import json
from dataclasses import dataclass

import numpy as np
import pytest

from segmamba.config import Config, DataConfig, LearningConfig
from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.splits import hold_out, seeded, split_cases, with_training_share
from segmamba.data.splits_file import read_splits, write_splits
from segmamba.data.strata import (
    SourceCase,
    describe_folds,
    strata_of,
    strata_of_files,
    stratified_folds,
)
from segmamba.errors import UserError


@dataclass(frozen=True)
class Person:
    id: str
    patient: str
    tumour_voxels: int = 10
    has_et: bool = True
    label_set = GLIOMA

    def label(self):
        label = np.zeros((10, 10, 10), np.uint8)
        label.ravel()[: self.tumour_voxels] = 2
        label[0, 0, 0] = 3 if self.has_et else label[0, 0, 0]
        return label


def people(count, scans=1):
    return [Person(f"P{p:03d}-{s}", f"P{p:03d}") for p in range(count) for s in range(scans)]


def mixed_people(count, scans=1):
    """Tumours of 1 to 1000 voxels, every fifth patient without ET."""
    sizes = np.random.default_rng(0).integers(1, 1000, count)
    return [
        Person(f"P{p:03d}-{s}", f"P{p:03d}", int(sizes[p]), p % 5 > 0)
        for p in range(count)
        for s in range(scans)
    ]


def patients_of(*groups):
    return [{case.patient for case in group} for group in groups]


def test_no_patient_is_in_two_sets():
    data = split_cases(people(30, scans=2), DataConfig())
    sets = patients_of(data.train, data.validation, data.test)
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert sum(map(len, sets)) == 30 and not data.test_is_validation


def test_the_split_depends_on_its_seed_and_not_on_the_order_of_cases():
    cases = people(30)
    assert split_cases(cases, DataConfig()) == split_cases(cases[::-1], DataConfig())
    assert split_cases(cases, DataConfig()) != split_cases(cases, DataConfig(split_seed=1))


def test_the_single_split_never_changes_so_that_studies_stay_comparable():
    data = split_cases(people(10), DataConfig())
    assert [case.patient for case in data.test] == ["P007", "P008"]
    assert [case.patient for case in data.validation] == ["P001", "P005"]


def test_validation_is_capped_and_says_so():
    data = split_cases(people(400), DataConfig())
    assert len(data.validation) == 20
    assert any("validation is capped at 20 of its 60 cases" in note for note in data.notes)


def test_with_three_patients_the_test_set_is_validation_and_says_so():
    data = split_cases(people(3), DataConfig())
    assert data.test_is_validation and data.test == data.validation and len(data.train) == 2
    assert "the last one is tested" in data.notes[0]


def test_a_test_set_that_is_also_validation_is_capped_for_choosing_and_not_for_the_verdict():
    data = split_cases(people(3, scans=30), DataConfig(validation_cases=4))
    assert data.test_is_validation and len(data.test) == 30 and data.validation == data.test[:4]
    assert any("validation is capped at 4 of its 30 cases" in note for note in data.notes)


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("folds", [0, 2])
def test_every_set_has_someone(count, folds):
    data = split_cases(people(count), DataConfig(folds=folds))
    assert data.train and data.validation and data.test


def test_one_patient_is_too_few():
    with pytest.raises(UserError, match="at least 2"):
        split_cases(people(1, scans=4), DataConfig())


@pytest.mark.parametrize("scans", [1, 3])
def test_the_tests_of_all_folds_are_everybody_once_and_no_patient_is_in_two_sets(scans):
    cases = mixed_people(43, scans)
    tested = []
    for fold in range(5):
        data = split_cases(cases, DataConfig(folds=5, fold=fold))
        sets = patients_of(data.train, data.validation, data.test)
        assert sum(map(len, sets)) == len(set().union(*sets)) == 43
        tested += sorted(sets[2])
    assert sorted(tested) == sorted({case.patient for case in cases})


def test_folds_and_validations_are_alike_in_volume_and_in_patients_without_et():
    cases = mixed_people(100)
    everyone = np.mean([case.tumour_voxels for case in cases])
    for fold in range(5):
        data = split_cases(cases, DataConfig(folds=5, fold=fold))
        for group, most_off in ((data.test, 0.1), (data.validation, 0.3)):
            assert abs(np.mean([case.tumour_voxels for case in group]) / everyone - 1) < most_off
        assert sum(not case.has_et for case in data.test) == 4
        assert sum(not case.has_et for case in data.validation) in (2, 3, 4)


def test_a_fold_depends_on_the_seed_and_not_on_the_order_of_cases():
    cases = mixed_people(30)
    config = DataConfig(folds=3, fold=1)
    assert split_cases(cases, config) == split_cases(cases[::-1], config)
    assert patients_of(split_cases(cases, config).test) != patients_of(
        split_cases(cases, DataConfig(folds=3, fold=1, split_seed=1)).test
    )


def test_more_folds_than_patients_are_refused():
    with pytest.raises(UserError, match=r"data\.folds = 5: more than the 4 patients"):
        split_cases(people(4), DataConfig(folds=5))


def test_written_splits_come_back_as_the_same_train_validation_and_test(tmp_path):
    cases = mixed_people(30, scans=2)
    path = write_splits(
        tmp_path / "splits_final.json", cases, stratified_folds(strata_of(cases), 5, 0)
    )
    folds = json.loads(path.read_text())
    assert (
        len(folds) == 5
        and set(folds[0]) == {"train", "val"}
        and len(folds[0]["train"]) + len(folds[0]["val"]) == 60
    )
    for fold in range(5):
        ours, theirs = (
            split_cases(cases, c)
            for c in (DataConfig(folds=5, fold=fold), DataConfig(splits_file=str(path), fold=fold))
        )
        assert (ours.train, ours.validation, ours.test) == (
            theirs.train,
            theirs.validation,
            theirs.test,
        )


def test_a_datalist_with_folds_is_a_splits_file(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text(
        json.dumps({"training": [{"image": f"P{p:03d}-0.nii.gz", "fold": p % 3} for p in range(9)]})
    )
    data = split_cases(people(9), DataConfig(splits_file=str(path), fold=2))
    assert patients_of(data.test) == [{"P002", "P005", "P008"}]
    assert [sorted(val)[0] for _, val in read_splits(path)] == ["P000-0", "P001-0", "P002-0"]


def test_the_holdout_set_stays_held_out_of_the_folds_of_a_file(tmp_path):
    cases = mixed_people(60)
    path = write_splits(
        tmp_path / "splits_final.json", cases, stratified_folds(strata_of(cases), 5, 0)
    )
    data = split_cases(cases, DataConfig(splits_file=str(path), holdout_share=0.2))
    assert (
        len(data.holdout) > 5
        and len(data.train) + len(data.validation) + len(data.test) + len(data.holdout) == 60
    )


def test_cases_that_the_file_does_not_name_are_left_out_and_that_is_noted(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(
        json.dumps([{"train": [f"P{p:03d}-0" for p in range(6)], "val": ["P006-0", "P007-0"]}])
    )
    data = split_cases(people(10), DataConfig(splits_file=str(path)))
    assert len(data.train) + len(data.validation) == 6 and len(data.test) == 2
    assert "2 cases are in none of its sets" in data.notes[0]


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (
            [{"train": ["P000-0", "P000-1"], "val": ["P001-0", "P099-0"]}],
            "1 of its cases are not in the data, P099-0",
        ),
        (
            [{"train": ["P000-0", "P001-0", "P001-1"], "val": ["P000-1"]}],
            "trains and tests on patient P000",
        ),
        (
            [{"train": ["P000-0", "P001-0", "P001-1"], "val": ["P002-0", "P002-1"]}],
            "not P000-1; name all time points",
        ),
        ([{"train": ["P000-0", "P000-1"], "val": []}], "nobody to test"),
        ([], "lists no folds; give nnU-Net's splits_final.json"),
        ([{"train": []}], r'\$\[0\]: "val" is missing; give nnU-Net'),
        ({"training": [{"image": "a.nii.gz"}]}, 'no entry has a "fold"'),
    ],
)
def test_a_splits_file_that_does_not_fit_is_refused_with_the_reason(tmp_path, folds, message):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(UserError, match=message):
        split_cases(people(6, scans=2), DataConfig(splits_file=str(path)))


@pytest.mark.parametrize("text", [None, "[{"])
def test_a_splits_file_that_is_absent_or_damaged_is_named(tmp_path, text):
    path = tmp_path / "splits_final.json"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"splits_final\.json: cannot be read"):
        split_cases(people(6), DataConfig(splits_file=str(path)))


@pytest.mark.parametrize("changes", [{}, {"split_seed": 3}, {"folds": 4, "fold": 2}])
def test_the_holdout_set_is_the_same_whatever_the_seed_and_the_folds_and_in_no_other_set(changes):
    cases = mixed_people(60, scans=2)
    data = split_cases(cases, DataConfig(holdout_share=0.2, **changes))
    (holdout,) = patients_of(data.holdout)
    assert holdout == patients_of(split_cases(cases, DataConfig(holdout_share=0.2)).holdout)[0]
    assert not holdout & set().union(*patients_of(data.train, data.validation, data.test))
    assert 0.1 < len(holdout) / 60 < 0.3 and len(data.holdout) == 2 * len(holdout)
    assert f"{len(holdout)} patients are held out (holdout set)" in data.notes[0]


def test_new_cases_never_move_a_holdout_patient_into_a_study():
    before = {case.id for case in split_cases(people(60), DataConfig(holdout_share=0.2)).holdout}
    after = {case.id for case in split_cases(people(90), DataConfig(holdout_share=0.2)).holdout}
    assert before == {case_id for case_id in after if case_id < "P060"}


@pytest.mark.parametrize(
    ("name", "text"), [("holdout.txt", "P003\n\nP007-1\n"), ("holdout.json", '["P003", "P007-1"]')]
)
def test_a_list_of_patients_or_cases_is_held_out_by_patient(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    data = split_cases(people(20, scans=2), DataConfig(holdout_file=str(tmp_path / name)))
    assert {case.id for case in data.holdout} == {"P003-0", "P003-1", "P007-0", "P007-1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("P003\nP333\n", "P333 is no patient or case of the data"), ("\n", "names nobody")],
)
def test_a_holdout_list_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "holdout.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        split_cases(people(20), DataConfig(holdout_file=str(tmp_path / "holdout.txt")))


def test_a_share_that_holds_out_nobody_is_refused_instead_of_ignored():
    with pytest.raises(
        UserError, match=r"data\.holdout_share = 0\.001 holds out none of 5 patients"
    ):
        split_cases(people(5), DataConfig(holdout_share=0.001))


def test_without_a_holdout_set_nothing_is_held_out():
    cases = people(5)
    assert hold_out(cases, DataConfig()) == (cases, [], [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, r"data\.folds = 1"),
        ({"folds": 5, "fold": 5}, r"data\.fold = 5: there are 5 folds"),
        ({"fold": 1}, r"data\.fold = 1: there are 0 folds"),
        ({"folds": 5, "splits_file": "a.json"}, "splits_file brings its own folds"),
        ({"holdout_share": 0.1, "holdout_file": "a.txt"}, "not both"),
        ({"holdout_share": 1.0}, "below 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**settings)


def test_folds_of_files_are_those_of_the_same_labels_in_memory_and_are_described(cases_folder):
    cases = find_cases(cases_folder)
    strata = strata_of_files(cases)
    assert (
        strata
        == strata_of([SourceCase(case) for case in cases])
        == {case.patient: (True, 1728) for case in cases}
    )
    rows = list(
        describe_folds(
            cases,
            strata | {cases[0].patient: (False, 10)},
            [[cases[0].patient], [case.patient for case in cases[1:]]],
        )
    )
    assert rows == [
        {"fold": 0, "patients": 1, "cases": 1, "without ET": 1, "tumour voxels, median": 10},
        {"fold": 1, "patients": 2, "cases": 2, "without ET": 0, "tumour voxels, median": 1728},
    ]


def test_a_share_of_the_labels_leaves_the_other_patients_unlabelled_and_all_other_sets_alone():
    cases = people(30, scans=2)
    whole, few, more = (
        split_cases(cases, DataConfig(labelled_share=share)) for share in (1.0, 0.2, 0.5)
    )
    trained = {
        share: patients_of(data.train)[0]
        for share, data in (("few", few), ("more", more), ("whole", whole))
    }
    assert not whole.unlabelled and [len(patients) for patients in trained.values()] == [4, 10, 20]
    assert trained["few"] < trained["more"] < trained["whole"], (
        "more labels are the same ones and some more"
    )
    assert trained["few"] | patients_of(few.unlabelled)[0] == trained["whole"]
    assert not trained["few"] & patients_of(few.unlabelled)[0]
    assert (few.validation, few.test) == (whole.validation, whole.test)
    assert any("labels of 4 of 20 patients" in note for note in few.notes)


def test_a_share_of_the_training_patients_leaves_all_other_sets_alone():
    whole = split_cases(people(30, scans=2), DataConfig())
    few, more, other = (
        with_training_share(whole, Config(seed=seed, learning=LearningConfig(training_share=share)))
        for seed, share in ((0, 0.2), (0, 0.5), (1, 0.2))
    )
    trained = [patients_of(split.train)[0] for split in (few, more, whole)]
    assert [len(patients) for patients in trained] == [4, 10, 20]
    assert trained[0] < trained[1] < trained[2], "more patients are the same ones and some more"
    assert len(few.train) == 2 * 4, "a patient stays with all scans or goes with all"
    assert patients_of(other.train)[0] != trained[0], "each seed draws its own"
    assert (few.validation, few.test, few.unlabelled) == (whole.validation, whole.test, ())
    assert few.notes[-1] == "trains on 4 of 20 patients (learning.training_share)"
    assert with_training_share(whole, Config()) is whole


def test_unlabelled_cases_of_patients_who_choose_test_or_are_held_out_are_left_out():
    cases = people(30)
    further = [Person(f"{case.patient}-later", case.patient) for case in cases] + [
        Person("Q1-0", "Q1"),
        Person("Q2-0", "Q2"),
    ]
    data = split_cases(cases, DataConfig(holdout_share=0.2), further)
    allowed = patients_of(data.train)[0]
    assert (
        data.holdout
        and {c.patient for c in data.unlabelled} <= allowed | {"Q1", "Q2"}
        and allowed <= {c.patient for c in data.unlabelled}
    )
    assert any(
        f"{len(further) - len(data.unlabelled)} cases without a segmentation are left out" in note
        for note in data.notes
    )


def test_a_patient_whom_the_holdout_share_takes_is_never_learnt_from():
    strangers = [Person(f"R{i}", f"R{i}") for i in range(200)]
    _, holdout, _ = hold_out(strangers, DataConfig(holdout_share=0.3))
    kept = split_cases(people(30), DataConfig(holdout_share=0.3), strangers).unlabelled
    assert 20 < len(holdout) < 100 and {c.id for c in kept} == {c.id for c in strangers} - {
        c.id for c in holdout
    }


def test_a_cap_keeps_as_many_patients_as_it_can_and_their_order():
    data = split_cases(people(10, scans=3), DataConfig(test_cases=3, validation_cases=2))
    assert len({case.patient for case in data.test}) == 2 and len(data.test) == 3
    assert len({case.patient for case in data.validation}) == 2 == len(data.validation)
    whole = split_cases(people(10, scans=3), DataConfig()).test
    assert data.test == [case for case in whole if case in data.test]


def test_a_splits_file_is_refused_for_a_divided_patient_in_any_of_its_folds(tmp_path):
    path = tmp_path / "splits_final.json"
    sound = {"train": ["P000-0", "P000-1"], "val": ["P001-0", "P001-1"]}
    divided = {"train": ["P000-0", "P001-0"], "val": ["P000-1", "P001-1"]}
    path.write_text(json.dumps([sound, divided]))
    with pytest.raises(
        UserError, match=r"fold 1 .* patient P000 \(trains on P000-0; tests on P000-1\)"
    ):
        split_cases(people(2, scans=2), DataConfig(splits_file=str(path)))


def test_the_split_varies_with_the_seed_only_where_that_is_asked_for():
    fixed, varied = Config(), Config().changed({"data.split_by_seed": True})
    cases = people(30)
    assert seeded(fixed, 0) == seeded(fixed, 5) == fixed.data
    assert split_cases(cases, seeded(varied, 0)) == split_cases(cases, fixed.data)
    tests = {tuple(c.id for c in split_cases(cases, seeded(varied, s)).test) for s in range(6)}
    assert len(tests) > 4
    held = varied.changed({"data.holdout_share": 0.3})
    assert len({split_cases(cases, seeded(held, s)).holdout for s in range(6)}) == 1
