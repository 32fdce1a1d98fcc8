"""What the viewer's page holds of a case, and how much of a study fits into a page."""

import base64
import gzip
import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest

from segmamba.data.label_sets import LABEL_SETS
from segmamba.errors import UserError
from segmamba.pictures import encode, niivue, viewer
from segmamba.pictures.encode import encode_case
from segmamba.pictures.viewer import by_interest, fitting, named_cases, viewer_section
from tests.pictures.conftest import SHAPE, made_view

WITH_NIIVUE = pytest.mark.skipif(not niivue.niivue_is_installed(), reason="no ipyniivue")


def unpacked(case, blob, shape):
    return np.frombuffer(gzip.decompress(base64.b64decode(case.data[blob])), np.uint8).reshape(
        shape, order="F"
    )


def test_a_case_comes_back_cut_to_the_brain_with_its_place_and_its_segmentations(view):
    case = encode_case(view, dice={"prediction": 0.5}, group="worst")
    about = case.about
    assert about["shape"] == (16, 20, 10) and about["offset"] == [2, 2, 1]
    assert np.allclose(np.array(about["affine"])[:3, 3], view.affine[:3] @ [2, 2, 1, 1])
    box = (slice(2, 18), slice(2, 22), slice(1, 11))
    assert (unpacked(case, about["truth"], about["shape"]) == view.truth[box]).all()
    (prediction,) = about["predictions"]
    assert (unpacked(case, prediction["blob"], about["shape"]) == view.prediction[box]).all()
    assert (prediction["dice"], case.dice, case.group, about["uncertainty"]) == (
        0.5,
        0.5,
        "worst",
        None,
    )
    for image in about["images"]:
        grey = unpacked(case, image["blob"], image["shape"])
        true = view.images[image["name"]][box]
        step = (image["high"] - image["low"]) / (image["levels"] - 2)
        shown = image["low"] + (grey - 1.0) * step
        inside = (true > image["low"]) & (true < image["high"])
        assert np.abs(shown - true)[inside].max() <= step / 2 + 1e-3
        assert ((grey == 0) == (true == 0)).all()
    assert case == encode_case(view, dice={"prediction": 0.5}, group="worst"), "the same bytes"


def test_a_segmentation_beyond_the_brain_is_held_too_and_uncertainty_is_a_share(view):
    truth = view.truth.copy()
    truth[0, 0, 0] = 1
    share = np.linspace(0, 1, truth.size).reshape(SHAPE)
    case = encode_case(replace(view, truth=truth), uncertainty=share)
    assert case.about["offset"] == [0, 0, 0]
    shape = case.about["shape"]
    held = unpacked(case, case.about["uncertainty"], shape) / 255
    assert np.abs(held - share[tuple(slice(n) for n in shape)]).max() <= 0.5 / encode.SHARES + 0.002


def test_a_large_case_is_made_smaller_but_not_its_segmentations(monkeypatch):
    rng = np.random.default_rng(0)
    images = {
        m: rng.uniform(1, 255, (40, 40, 40)).astype(np.float32)
        for m in ("T1", "T1ce", "T2", "FLAIR")
    }
    truth = rng.integers(0, 4, (40, 40, 40)).astype(np.uint8)
    view = made_view(images=images, truth=truth, prediction=None)
    monkeypatch.setattr(encode, "CASE_BYTES", 120_000)
    case = encode_case(view)
    held = {image["name"]: image for image in case.about["images"]}
    assert list(held) == ["T1ce", "FLAIR", "T2", "T1"]
    assert [image["step"] for image in held.values()] == [1, 1, 2, 2]
    assert held["T1"]["shape"] == (20, 20, 20) and held["T1"]["levels"] < 256
    assert sum(len(gzip.decompress(base64.b64decode(case.data[i["blob"]]))) for i in held.values())
    taken = sum(len(case.data[image["blob"]]) * 3 // 4 for image in held.values())
    assert taken < 1.15 * 120_000
    assert (unpacked(case, case.about["truth"], (40, 40, 40)) == truth).all()
    block = images["T1"][:2, :2, :2].mean()
    grey = unpacked(case, held["T1"]["blob"], (20, 20, 20))[0, 0, 0]
    step = (held["T1"]["high"] - held["T1"]["low"]) / (held["T1"]["levels"] - 2)
    assert abs(held["T1"]["low"] + (grey - 1) * step - block) <= step


def test_a_huge_case_is_made_as_coarse_as_the_page_needs(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 255, (64, 64, 64)).astype(np.float32)
    monkeypatch.setattr(encode, "CASE_BYTES", 1_000)
    view = made_view(images={"T1ce": image}, truth=None, prediction=None)
    case = encode_case(view)
    assert case.about["images"][0]["step"] == 8 and case.size < 3_000


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_every_class_of_every_label_set_has_its_name_and_colour(labels):
    about = encode_case(made_view(labels=labels)).about
    assert about["classes"] == labels.classes and len(set(about["colours"])) == len(labels.classes)


def test_worst_median_and_best_come_first_then_from_worse_to_better():
    dice = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.4, "e": 0.7}
    assert by_interest(dice) == ["b", "c", "a", "d", "e"]
    assert named_cases(dice) == {"worst": "b", "median": "c", "best": "a"}
    assert named_cases({"a": 1.0}) == {"worst": "a"} and named_cases({}) == {}
    assert named_cases({"a": 1.0, "b": 1.0}) == {"worst": "a", "best": "b"}


@WITH_NIIVUE
def test_a_page_takes_cases_until_it_is_full_and_says_what_it_left_out(view, monkeypatch):
    case, made = encode_case(view), []

    def cases():
        for number in range(100):
            made.append(number)
            yield replace(case, id=f"case {number}")

    monkeypatch.setattr(viewer, "PAGE_BYTES", len(niivue.niivue_script()) + 3 * case.size + 10)
    held = fitting(cases())
    assert [one.id for one in held] == ["case 0", "case 1", "case 2"] and len(made) == 4
    page = viewer_section(held, 100)
    assert (
        "3 of 100 cases; the others are left out" in page and len(page) < viewer.PAGE_BYTES + 40_000
    )
    assert not fitting(cases(), taken=viewer.PAGE_BYTES)


def test_without_niivue_the_page_says_how_to_get_it(view, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(niivue, "distribution", missing)
    niivue.niivue_script.cache_clear()
    assert fitting(iter([encode_case(view)])) == []
    page = viewer_section([], 3)
    assert "pip install &#39;segmamba[viewer]&#39;" in page and "<canvas" not in page
    niivue.niivue_script.cache_clear()
    with pytest.raises(UserError, match="the viewer needs NiiVue"):
        niivue.niivue_script()


def test_a_package_without_the_known_script_is_named_with_its_version(view, monkeypatch):
    class Other:
        files, version = [], "9.9"

    monkeypatch.setattr(niivue, "distribution", lambda name: Other)
    niivue.niivue_script.cache_clear()
    with pytest.raises(UserError, match=r"ipyniivue 9\.9 holds no static/widget\.js"):
        niivue.niivue_script()
    assert fitting(iter([encode_case(view)])) == [], "the page is made all the same"
    assert "-c constraints.txt" in viewer_section([], 3)


@WITH_NIIVUE
def test_the_script_is_read_from_the_installed_package_and_exports_the_viewer():
    niivue.niivue_script.cache_clear()
    module = gzip.decompress(base64.b64decode(niivue.niivue_script())).decode()
    assert module.rstrip().endswith("as Niivue };") and "loadFromArrayBuffer" in module
