import numpy as np
import pytest
import torch

from segmamba.data.labels import (
    CONVENTIONS,
    REGIONS,
    REGIONS_AND_MEAN,
    classes_from_regions,
    from_classes,
    region_masks,
    to_classes,
)
from segmamba.data.layouts.declared_names import convention_of, modality_of
from segmamba.errors import UserError

EXACT = [name for name, known in CONVENTIONS.items() if not known.merged]


def test_regions_determine_the_labels_of_all_conventions_but_two():
    assert set(CONVENTIONS) - set(EXACT) == {"brats2024", "brats2024ped"}


@pytest.mark.parametrize("name", EXACT)
def test_labels_to_regions_and_back_is_the_identity(name):
    values = (
        np.random.default_rng(0)
        .choice(sorted(CONVENTIONS[name].values), (7, 8, 9))
        .astype(np.uint8)
    )
    classes = classes_from_regions(region_masks(to_classes(values, name, "x")))
    assert (from_classes(classes, name) == values).all()


@pytest.mark.parametrize(
    ("name", "merged", "becomes"), [("brats2024", 4, 0), ("brats2024ped", 3, 2)]
)
def test_a_merged_value_becomes_what_the_convention_says_and_the_others_stay(name, merged, becomes):
    values = np.array(sorted(CONVENTIONS[name].values), np.uint8)
    back = from_classes(classes_from_regions(region_masks(to_classes(values, name, "x"))), name)
    assert (back == np.where(values == merged, becomes, values)).all()
    assert f"{merged})" in CONVENTIONS[name].notes[0]


def test_regions_of_each_convention_are_those_of_the_challenges():
    expected = {
        "brats2018": ({4}, {1, 4}, {1, 2, 4}),
        "brats2023": ({3}, {1, 3}, {1, 2, 3}),
        "brats2024": ({3}, {1, 3}, {1, 2, 3}),
        "brats2024ped": ({1}, {1, 2, 3}, {1, 2, 3, 4}),
        "msd": ({3}, {2, 3}, {1, 2, 3}),
    }
    assert {
        name: tuple(set(known.regions[r]) for r in ("ET", "TC", "WT"))
        for name, known in CONVENTIONS.items()
    } == expected


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (
            {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3},
            "msd",
        ),
        ({"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}, "msd"),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, "brats2023"),
        (
            {
                "background": 0,
                "whole tumor": [1, 2, 3],
                "tumor core": [1, 3],
                "enhancing tumor": [3],
            },
            "brats2023",
        ),
        ({"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}, "brats2024"),
        ({"background": 0, "ET": 1, "NET": 2, "CC": 3, "ED": 4}, "brats2024ped"),
        ({"background": 0, "ET": 1, "ED": 2, "NCR": 3}, None),
        ({"background": 0, "first": 1, "second": 2, "third": 3}, None),
        ({"background": 0, "tumor": 1}, None),
    ],
)
def test_a_dataset_json_that_names_its_labels_declares_a_convention_or_none(declared, expected):
    known = convention_of(declared)
    assert (known and known.name) == expected


@pytest.mark.parametrize(
    ("name", "modality"),
    [("T1w", "T1"), ("t1gd", "T1ce"), ("T2-FLAIR", "FLAIR"), ("T2w", "T2"), ("CT", None)],
)
def test_modalities_are_known_by_the_names_data_sets_give_them(name, modality):
    assert modality_of(name) == modality


def test_enhancing_tumour_is_4_in_2018_and_3_in_2023_and_msd_swaps_oedema_and_core():
    assert to_classes(np.array([1, 2, 4]), "brats2018", "x").tolist() == [1, 2, 3]
    assert to_classes(np.array([1, 2, 3]), "brats2023", "x").tolist() == [1, 2, 3]
    assert to_classes(np.array([1, 2, 3]), "msd", "x").tolist() == [2, 1, 3]


def test_float_labels_are_read_as_values_and_fractions_are_refused():
    assert to_classes(np.array([0.0, 3.0], np.float32), "brats2023", "x").tolist() == [0, 3]
    for wrong, value in ((0.5, r"0\.5"), (-1.0, "-1"), (257.0, "257"), (float("nan"), "nan")):
        with pytest.raises(UserError, match=rf"a\.nii\.gz: label value {value}"):
            to_classes(np.array([wrong]), "brats2023", "a.nii.gz")


def test_a_value_outside_the_convention_names_file_value_and_fix():
    with pytest.raises(
        UserError,
        match=r"case_seg\.nii\.gz: label value 3 is not in convention brats2018.*--labels",
    ):
        to_classes(np.array([0, 3]), "brats2018", "case_seg.nii.gz")


def test_a_case_is_scored_by_each_region_and_their_mean():
    assert REGIONS_AND_MEAN == (*REGIONS, "mean") == ("ET", "TC", "WT", "mean")


def test_regions_nest_and_agree_between_numpy_and_torch():
    classes = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    et, tc, wt = region_masks(classes)
    assert (et <= tc).all() and (tc <= wt).all()
    assert (region_masks(torch.from_numpy(classes)).numpy() == np.stack([et, tc, wt])).all()
