import numpy as np
import pytest
import torch

from segmamba.data.labels import CONVENTIONS, REGIONS, from_classes, region_masks, to_classes
from segmamba.errors import UserError


@pytest.mark.parametrize("name", CONVENTIONS)
def test_labels_to_classes_and_back_is_the_identity(name):
    values = np.array(sorted(CONVENTIONS[name].values), np.uint8).reshape(2, 2, 1)
    assert (from_classes(to_classes(values, name, "x"), name) == values).all()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_classes_to_regions_and_back_is_the_identity(name):
    classes = np.arange(4, dtype=np.uint8).reshape(4, 1, 1)
    masks = dict(zip(REGIONS, region_masks(classes), strict=True))
    back = np.zeros_like(classes)
    for region, value in (("WT", 2), ("TC", 1), ("ET", 3)):
        back[masks[region]] = value
    assert (back == classes).all()


def test_enhancing_tumour_is_4_in_2018_and_3_in_2023_and_msd_swaps_oedema_and_core():
    assert to_classes(np.array([1, 2, 4]), "brats2018", "x").tolist() == [1, 2, 3]
    assert to_classes(np.array([1, 2, 3]), "brats2023", "x").tolist() == [1, 2, 3]
    assert to_classes(np.array([1, 2, 3]), "msd", "x").tolist() == [2, 1, 3]


def test_float_labels_are_read_as_values_and_fractions_are_refused():
    assert to_classes(np.array([0.0, 3.0], np.float32), "brats2023", "x").tolist() == [0, 3]
    with pytest.raises(UserError, match=r"a\.nii\.gz: label value 0\.5"):
        to_classes(np.array([0.5]), "brats2023", "a.nii.gz")


def test_a_value_outside_the_convention_names_file_value_and_fix():
    with pytest.raises(UserError, match=r"case_seg\.nii\.gz: label value 3 is not in convention brats2018.*--labels"):
        to_classes(np.array([0, 3]), "brats2018", "case_seg.nii.gz")


def test_regions_nest_and_agree_between_numpy_and_torch():
    classes = np.random.default_rng(0).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    et, tc, wt = region_masks(classes)
    assert (et <= tc).all() and (tc <= wt).all()
    assert (region_masks(torch.from_numpy(classes)).numpy() == np.stack([et, tc, wt])).all()
