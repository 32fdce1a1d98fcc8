"""Cases whose conventions have different classes, from files to what a run is given."""

import numpy as np
import pytest

from segmamba.data.cases import find_cases, notes_on
from segmamba.data.common_classes import read_as
from segmamba.data.label_sets import GLIOMA, LABEL_SETS, common_set, label_set, translation
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import find_data
from segmamba.data.strata import SourceCase, strata_of
from segmamba.data.summary import summarise
from segmamba.errors import UserError
from tests.classes import PEDIATRIC_IDS, POST_TREATMENT_IDS, write_pediatric, write_post_treatment
from tests.conftest import NEW_NAMES, write_case
from tests.tiny import TINY


def no_steps(label):
    return lambda done, total: None


def found(folder, **changes):
    config = TINY.changed({"data.source": str(folder), **changes})
    return find_data(config, folder, steps=no_steps)


def test_a_data_set_has_the_classes_of_its_convention(tmp_path):
    for write, name, ids in (
        (write_post_treatment, "post_treatment", POST_TREATMENT_IDS),
        (write_pediatric, "pediatric", PEDIATRIC_IDS),
    ):
        data = found(write(tmp_path / name))
        assert [case.id for case in data.labelled] == ids
        assert data.label_set == label_set(name)
        assert not any("counts as" in note for note in data.notes)
        labels = set(np.unique(SourceCase(data.labelled[0]).label()).tolist())
        assert labels == set(range(len(data.label_set.classes)))


def test_a_user_may_ask_for_gliomas_three_classes_and_is_told_what_is_merged(tmp_path):
    data = found(write_post_treatment(tmp_path), **{"model.classes": "glioma"})
    assert data.label_set == GLIOMA
    assert set(np.unique(SourceCase(data.labelled[0]).label()).tolist()) == {0, 1, 2, 3}
    assert any("the resection cavity (RC, 4) counts as background" in note for note in data.notes)


def test_cases_of_different_classes_are_mixed_only_as_classes_that_all_have(tmp_path):
    write_post_treatment(tmp_path)
    write_case(tmp_path, "BraTS-GLI-00009-000", names=NEW_NAMES, et_value=3)
    mixed = {"data.labels": "mixed"}
    with pytest.raises(UserError, match=r"model\.classes=glioma or post_treatment"):
        found(tmp_path, **mixed)
    for name in ("glioma", "post_treatment"):
        data = found(tmp_path, **mixed, **{"model.classes": name})
        assert {case.label_set.name for case in data.labelled} == {name}
    before = [case for case in data.labelled if case.convention == "brats2023"]
    assert set(np.unique(SourceCase(before[0]).label()).tolist()) == {0, 1, 2, 3}


def test_classes_that_a_case_does_not_tell_apart_are_refused_with_its_name(tmp_path):
    write_case(tmp_path, "BraTS-GLI-00009-000", names=NEW_NAMES, et_value=3)
    with pytest.raises(UserError, match=r"BraTS-GLI-00009-000: .*asks for ET, NETC, CC, ED"):
        found(tmp_path, **{"model.classes": "pediatric"})


def test_mixed_conventions_of_one_set_stay_what_they_were(tmp_path):
    write_case(tmp_path, "BraTS20_Training_001")
    write_case(tmp_path, "BraTS-GLI-00009-000", names=NEW_NAMES, et_value=3)
    data = found(tmp_path, **{"data.labels": "mixed"})
    assert data.label_set == GLIOMA and not data.notes


def test_the_cache_keeps_one_case_under_different_sets_apart(tmp_path):
    write_case(tmp_path / "data", "BraTS-GLI-00009-000", names=NEW_NAMES, et_value=3)
    cases = find_cases(tmp_path / "data")
    folders = []
    for name in ("auto", "glioma", "post_treatment"):
        (prepared,) = prepare_cases(read_as(cases, name), tmp_path / "cache", TINY.data, workers=1)
        folders.append(prepared.folder.name)
        assert prepared.label_set == label_set(name) and prepared.classes == (1, 2, 3)
    assert folders[0] == folders[1] != folders[2]


def test_every_class_has_centres_of_patches_in_the_cache(tmp_path):
    cases = read_as(find_cases(write_post_treatment(tmp_path / "data")), "auto")
    prepared = prepare_cases(cases, tmp_path / "cache", TINY.data, workers=1)[0]
    assert prepared.classes == (1, 2, 3, 4)
    values = prepared.label().ravel()
    for number in prepared.classes:
        assert set(values[prepared.voxels(f"class{number}")].tolist()) == {number}


def test_the_volume_of_a_tumour_is_without_the_cavity(tmp_path):
    (patient,) = strata_of([SourceCase(find_cases(write_post_treatment(tmp_path))[0])]).values()
    assert patient == (True, 3 * 6 * 10 * 10)


def test_the_summary_measures_the_regions_that_the_data_have(tmp_path):
    fingerprint, measured = summarise(write_post_treatment(tmp_path))
    assert list(fingerprint["volumes_ml"]) == ["ET", "TC", "WT", "RC"]
    assert measured[0].volumes_ml["RC"] == pytest.approx(0.6)
    assert fingerprint["cases_without"]["RC"] == [] and notes_on(find_cases(tmp_path)) == []


def test_what_has_no_common_set_is_read_as_glioma():
    assert common_set(LABEL_SETS.values()) == GLIOMA
    for own in LABEL_SETS.values():
        assert common_set([own, own]) == own
        assert translation(own, own) == list(range(len(own.classes)))
