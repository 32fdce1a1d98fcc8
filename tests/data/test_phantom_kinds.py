"""The phantom's other diseases: what they hold, and how they are read."""

import numpy as np
import pytest

from segmamba.data.cases import find_cases
from segmamba.data.label_sets import label_set
from segmamba.data.phantom import KINDS, make_case, write_phantom
from segmamba.errors import UserError

pytest.importorskip("nilearn")
SIZE = (48, 48, 48)
OTHERS = [kind for kind in KINDS if kind != "glioma"]


@pytest.fixture(scope="module", params=OTHERS)
def made(request):
    """(kind, three cases of it)."""
    return request.param, [make_case(0, index, SIZE, request.param) for index in (0, 2, 4)]


def test_a_few_cases_have_every_class_in_the_values_of_the_convention(made):
    kind, cases = made
    for _, label, _ in cases:
        assert set(np.unique(label).tolist()) == {0, 1, 2, 3, 4}, kind


def test_images_are_brain_with_zeros_around_and_the_tumour_lies_in_it(made):
    for images, label, _ in made[1]:
        brain = images["T1"] > 0
        assert all((image > 0).tolist() == brain.tolist() for image in images.values())
        assert brain[label > 0].all()


def test_a_cavity_and_a_cyst_look_like_fluid(made):
    kind, cases = made
    number = {"post_treatment": 4, "pediatric": 3}[kind]
    for images, label, _ in cases:
        fluid, brain = label == number, (label == 0) & (images["T1"] > 0)
        assert np.median(images["T2"][fluid]) > 1.3 * np.median(images["T2"][brain])
        assert np.median(images["FLAIR"][fluid]) < np.median(images["FLAIR"][brain])


def test_the_same_numbers_give_the_same_case(made):
    kind, cases = made
    again = make_case(0, 2, SIZE, kind)
    assert np.array_equal(again[1], cases[1][1])
    assert all(np.array_equal(again[0][m], cases[1][0][m]) for m in again[0])


def test_the_patients_of_all_kinds_have_the_same_heads_and_the_tumours_the_same_outline(made):
    kind, cases = made
    for index, (images, label, _) in zip((0, 2, 4), cases, strict=True):
        of_glioma, glioma, _ = make_case(0, index, SIZE)
        assert np.array_equal(images["T1"] > 0, of_glioma["T1"] > 0)
        assert np.array_equal(label > 0, glioma > 0), kind


@pytest.mark.parametrize("kind", OTHERS)
def test_every_command_reads_their_labels_rightly_by_their_names(tmp_path, kind):
    folder = write_phantom(tmp_path / "cases", cases=2, size=SIZE, seed=0, kind=kind)
    for case in find_cases(folder):
        assert case.convention == KINDS[kind].convention and case.label_set == label_set(kind)
    with pytest.raises(UserError, match="holds a phantom made with"):
        write_phantom(folder, cases=2, size=SIZE, seed=0)
