import pytest

from segmamba.data.cases import find_cases
from segmamba.data.phantom import GENERATOR_VERSION
from segmamba.data.source import (
    find_data,
    images_to_learn_from,
    prepare_split,
    source_changes,
    unlabelled_cases,
)
from segmamba.errors import UserError
from tests.conftest import NEW_NAMES, write_case
from tests.tiny import TINY

PRETRAINED = {"learning.pretrain_epochs": 1}


def no_steps(label):
    return lambda done, total: None


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Five labelled patients, of whom one has a second scan without labels, and a sixth one."""
    folder = tmp_path_factory.mktemp("data_set")
    for number in range(5):
        write_case(
            folder, f"BraTS-GLI-0000{number}-100", names=NEW_NAMES, et_value=3, shape=(32, 32, 32)
        )
    for case_id in ("BraTS-GLI-00000-101", "BraTS-GLI-00005-100"):
        write_case(folder, case_id, names=NEW_NAMES, label=False, shape=(32, 32, 32))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def config(data_set):
    return TINY.changed(source_changes(data_set, "auto"))


def ids(cases):
    return [case.id for case in cases]


def test_the_labelled_cases_are_prepared_and_those_left_out_are_noted(config, results):
    config = config.changed({"model.classes": "glioma"})
    data = prepare_split(config, results, steps=no_steps)
    assert ids(data.cases) == ids(data.prepared) == ids(data.labelled)
    assert len(data.labelled) == 5 and data.unlabelled == []
    assert data.source == config.data.source
    counted, left_out, merged = data.notes
    assert counted == "5 cases of 5 patients: no two names are known to be of one person"
    assert left_out == "2 cases without a segmentation are left out"
    assert "resection cavity" in merged
    assert all(case.folder.parent == results / "cache" for case in data.prepared)
    split = data.split()
    assert len(split.train) + len(split.validation) + len(split.test) == 5
    assert split.train[0].image().dtype == "float16"


def test_cases_without_labels_are_there_for_who_learns_from_images(config, results):
    learner = config.changed(PRETRAINED)
    data = prepare_split(config, results, steps=no_steps, learners=[config, learner])
    assert ids(data.found.unlabelled) == ids(data.unlabelled)
    assert ids(data.prepared) == ids(data.cases) == ids([*data.labelled, *data.unlabelled])
    assert ids(data.unlabelled) == ["BraTS-GLI-00000-101", "BraTS-GLI-00005-100"]
    assert all("left out" not in note for note in data.notes)
    assert "BraTS-GLI-00005-100" in ids(data.split().unlabelled)


def test_the_same_prepared_cases_are_divided_into_every_fold(config, results):
    data = prepare_split(config, results, steps=no_steps)
    splits = [
        data.split(config.changed({"data.folds": 5, "data.fold": fold}).data) for fold in range(5)
    ]
    assert sorted(case.id for split in splits for case in split.test) == ids(data.labelled)
    assert "fold 4 of 5" in splits[4].notes[0]


def test_a_cache_of_its_own_is_filled_and_its_progress_is_shown(config, tmp_path):
    shown = []

    def steps(label):
        return lambda done, total: shown.append((label, done, total))

    data = prepare_split(config, tmp_path, steps=steps, cache=tmp_path / "elsewhere", workers=1)
    assert {case.folder.parent for case in data.prepared} == {tmp_path / "elsewhere"}
    assert shown == [("preparing cases", done, 5) for done in range(1, 6)]
    shown.clear()
    prepare_split(config, tmp_path, steps=steps, cache=tmp_path / "elsewhere")
    assert shown == [], "nothing had to be done"


def test_a_patch_that_a_learner_cannot_take_is_refused(config, results):
    wide = config.changed({"data.patch_size": (48, 32, 32), "data.pad_to_patch": False})
    with pytest.raises(UserError, match="32 voxels along x"):
        prepare_split(config, results, steps=no_steps, learners=[config, wide])
    prepare_split(wide, results, steps=no_steps)


def test_a_phantom_is_made_where_no_data_set_is_named(tmp_path, monkeypatch):
    made, labels = [], []

    def write_phantom(folder, *, cases, size, seed, kind, progress):
        made.append((folder, cases, size, seed))
        assert kind == "glioma"
        write_case(folder, "Phantom_0")

    def steps(label):
        labels.append(label)
        return lambda done, total: None

    monkeypatch.setattr("segmamba.data.phantom.write_phantom", write_phantom)
    config = TINY.changed({"phantom.cases": 2, "phantom.size": (48, 64, 80), "phantom.seed": 3})
    data = find_data(config, tmp_path, steps=steps, learners=[config.changed(PRETRAINED)])
    assert ids(data.labelled) == ["Phantom_0"] and data.unlabelled == [] and data.notes == []
    assert data.source == "phantom (2 cases of 48x64x80 voxels, seed 3)"
    assert labels == ["making phantom cases"]
    ((folder, *parameters),) = made
    assert parameters == [2, (48, 64, 80), 3] and folder.parent == tmp_path / "phantom"
    assert folder.name == f"v{GENERATOR_VERSION}_2_cases_48x64x80_seed3"


def test_a_data_set_without_labels_trains_nothing_and_pretrains_whole(tmp_path):
    write_case(tmp_path / "data", "X", label=False)
    config = TINY.changed(source_changes(tmp_path / "data", "auto"))
    with pytest.raises(UserError, match="1 cases but none has a segmentation"):
        find_data(config, tmp_path, steps=no_steps)
    cases, notes = images_to_learn_from(config, tmp_path, steps=no_steps)
    assert ids(cases) == ["X"] and notes == []


def test_images_are_learnt_from_unless_their_patient_is_validated_or_tested(config, tmp_path):
    learner = config.changed(PRETRAINED)
    cases, notes = images_to_learn_from(learner, tmp_path, steps=no_steps)
    split = prepare_split(learner, tmp_path, steps=no_steps).split()
    closed = {case.patient for case in [*split.validation, *split.test]}
    assert ids(cases)[: len(split.train)] == ids(split.train)
    assert {case.patient for case in cases}.isdisjoint(closed)
    assert "BraTS-GLI-00005-100" in ids(cases)
    assert any("cases without a segmentation serve as unlabelled" in note for note in notes)


def test_unlabelled_cases_need_an_arm_that_learns_from_images(config, data_set):
    missing = ids(case for case in find_cases(data_set) if case.label is None)
    assert ids(unlabelled_cases(config)) == missing
    assert ids(unlabelled_cases(config, [config, config.changed(PRETRAINED)])) == missing
    assert unlabelled_cases(config, [config]) == []


def test_no_data_is_the_phantom_and_a_path_becomes_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert source_changes(None, "auto") == {
        "data.source": "",
        "data.labels": "auto",
        "data.names": (),
    }
    assert source_changes("here", "msd")["data.source"] == str(tmp_path / "here")
