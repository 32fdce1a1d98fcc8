import numpy as np
import pytest
import torch

from segmamba.data.label_sets import (
    GLIOMA,
    LABEL_SETS,
    PEDIATRIC,
    POST_TREATMENT,
    classes_from_regions,
    region_masks,
)
from segmamba.data.labels import CONVENTIONS, from_classes, to_classes
from segmamba.data.layouts.declared_names import convention_of, modality_of
from segmamba.errors import UserError
from segmamba.pictures.palette import REGION_COLOURS


@pytest.mark.parametrize("name", CONVENTIONS)
def test_labels_to_regions_and_back_is_the_identity(name):
    values = (
        np.random.default_rng(0)
        .choice(sorted(CONVENTIONS[name].values), (7, 8, 9))
        .astype(np.uint8)
    )
    labels = CONVENTIONS[name].labels
    classes = classes_from_regions(region_masks(to_classes(values, name, "x"), labels), labels)
    assert (from_classes(classes, name, labels) == values).all()


@pytest.mark.parametrize(
    ("name", "merged", "becomes"), [("brats2024", 4, 0), ("brats2024ped", 3, 2)]
)
def test_read_as_glioma_a_merged_value_becomes_what_the_note_says_and_the_others_stay(
    name, merged, becomes
):
    values = np.array(sorted(CONVENTIONS[name].values), np.uint8)
    back = from_classes(to_classes(values, name, "x", GLIOMA), name, GLIOMA)
    assert (back == np.where(values == merged, becomes, values)).all()
    assert f"{merged})" in CONVENTIONS[name].notes(GLIOMA)[0]
    assert not any(
        f"{merged})" in line for line in CONVENTIONS[name].notes(CONVENTIONS[name].labels)
    )


def test_regions_of_each_convention_are_those_of_the_challenges():
    expected = {
        "brats2018": {"ET": {4}, "TC": {1, 4}, "WT": {1, 2, 4}},
        "brats2023": {"ET": {3}, "TC": {1, 3}, "WT": {1, 2, 3}},
        "brats2024": {"ET": {3}, "TC": {1, 3}, "WT": {1, 2, 3}, "RC": {4}},
        "brats2024ped": {
            "ET": {1},
            "TC": {1, 2, 3},
            "WT": {1, 2, 3, 4},
            "NETC": {2},
            "CC": {3},
            "ED": {4},
        },
        "msd": {"ET": {3}, "TC": {2, 3}, "WT": {1, 2, 3}},
    }
    assert {
        name: {region: set(values) for region, values in known.regions.items()}
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
    assert GLIOMA.scores == ("ET", "TC", "WT", "mean")
    assert POST_TREATMENT.scores == ("ET", "TC", "WT", "RC", "mean")


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_regions_nest_and_agree_between_numpy_and_torch(labels):
    count = len(labels.classes)
    classes = np.random.default_rng(0).integers(0, count, (5, 6, 7)).astype(np.uint8)
    masks = region_masks(classes, labels)
    et, tc, wt = masks[:3]
    assert (et <= tc).all() and (tc <= wt).all()
    assert (region_masks(torch.from_numpy(classes), labels).numpy() == masks).all()


def test_the_resection_cavity_is_in_no_region_but_its_own():
    classes = to_classes(np.array([[[4]]]), "brats2024", "x")
    held = dict(zip(POST_TREATMENT.regions, region_masks(classes, POST_TREATMENT), strict=True))
    assert [region for region, mask in held.items() if mask.all()] == ["RC"]


def test_labels_from_before_treatment_are_whole_post_treatment_labels_without_a_cavity():
    classes = to_classes(np.array([0, 1, 2, 4]), "brats2018", "x", POST_TREATMENT)
    assert [POST_TREATMENT.classes[c] for c in classes] == ["background", "NETC", "SNFH", "ET"]
    assert from_classes(classes, "brats2024", POST_TREATMENT).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "labels"), [("brats2023", PEDIATRIC), ("brats2024ped", POST_TREATMENT)]
)
def test_labels_that_do_not_tell_the_wanted_classes_apart_are_refused(name, labels):
    with pytest.raises(UserError, match=f"labels {name} cannot be read as .* {labels.name}"):
        to_classes(np.array([1]), name, "x", labels)


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
@pytest.mark.parametrize("name", CONVENTIONS)
def test_whatever_is_predicted_is_written_in_valid_values(name, labels):
    written = from_classes(np.arange(len(labels.classes), dtype=np.uint8), name, labels)
    assert written[0] == 0 and set(written.tolist()) <= set(CONVENTIONS[name].values)


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_a_set_has_a_colour_for_each_region_and_a_class_for_each_outline(labels):
    colours = [REGION_COLOURS[region] for region in labels.regions]
    assert len(set(colours)) == len(colours)
    assert {name for _, name in labels.written} == set(labels.classes[1:])
