"""Prediction from any subset of the modalities, as a user asks for it."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference.native_view import native_view
from segmamba.inference.predictor import load_predictor
from segmamba.pictures.overlay import picture
from tests.conftest import write_case
from tests.inference.conftest import write_run
from tests.inference.test_predict_command import predict

DROPOUT = {"augment.modality_dropout": (0.5, 0.5, 0.5, 0.5)}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A whole case A, and a case B without T1 and T1ce."""
    for number, name in enumerate("AB"):
        write_case(tmp_path / "data", name, shape=(40, 44, 24), seed=number, label=False)
    for modality in ("t1", "t1ce"):
        (tmp_path / "data" / "B" / f"B_{modality}.nii.gz").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_a_case_that_lacks_modalities_is_refused_and_the_others_are_predicted(run, data, capsys):
    assert predict() == 2
    error = capsys.readouterr().err
    assert "error: B: modality T1 is missing" in error and "--missing zeros" in error
    cases = {c["case"]: c for c in json.loads(Path("out/predictions.json").read_text())["cases"]}
    assert cases["A"]["state"] == "done" and cases["B"]["state"] == "failed"


def test_with_zeros_it_is_predicted_said_and_warned_of(run, data, capsys):
    assert predict("--missing", "zeros", "--overlay", "--html") == 0
    said = capsys.readouterr().err
    assert "note: T1 is missing in 1 of 2 cases" in said
    assert (
        "warning: 1 case predicted without T1, T1ce by a network that was trained without" in said
    )
    record = json.loads(Path("out/predictions.json").read_text())
    assert [case["missing"] for case in record["cases"]] == [[], ["T1", "T1ce"]]
    assert len(record["warnings"]) == 1
    stored = np.asarray(nibabel.load("out/B.nii.gz").dataobj)
    (case,) = [c for c in find_cases(data, missing="zeros") if c.id == "B"]
    scan = read_scan(case)
    assert stored.shape == (40, 44, 24) and not scan.image[:2].any() and scan.image[2:].any()


def test_an_overlay_is_dark_or_light_as_asked_and_its_images_stay_on_black(run, data):
    drawn = {}
    for theme in ("dark", "light"):
        asked = ("--missing", "zeros", "--overlay", "--theme", theme, "--output", theme)
        assert predict(*asked) == 0
        with Image.open(f"{theme}/overlays/A.png") as picture:
            drawn[theme] = np.asarray(picture.convert("RGB")).astype(int)
    dark, light = drawn["dark"], drawn["light"]
    assert (dark[0, 0] == 0).all() and (light[0, 0] == 255).all()
    assert light.mean() - dark.mean() > 30 and 0.6 < (dark == light).all(-1).mean() < 0.95


def test_a_theme_that_is_none_is_refused_before_anything_is_predicted(run, data):
    with pytest.raises(UserError, match="--theme 'sepia': choose one of dark, light"):
        predict("--missing", "zeros", "--overlay", "--theme", "sepia")
    assert not Path("out").exists()


def test_the_prediction_is_that_of_zeros_in_the_place_of_the_missing_channels(run, data):
    predictor = load_predictor(run, "cpu")
    (case,) = [c for c in find_cases(data, missing="zeros") if c.id == "B"]
    whole = write_case(data.parent / "whole", "B", shape=(40, 44, 24), seed=1, label=False)
    (complete,) = find_cases(whole.parent)
    prepared = predictor.prepare(read_scan(complete))
    (image,) = prepared.images.values()
    image[:2] = 0
    expected = predictor.predict(prepared)
    assert (predictor.predict(read_scan(case)) == expected).all() and expected.any()


def test_a_network_that_was_trained_with_zeros_and_dropout_takes_it_without_a_word(
    tmp_path, data, capsys
):
    write_run(tmp_path / "run", **{"data.missing": "zeros"}, **DROPOUT)
    assert predict() == 0
    assert "warning" not in capsys.readouterr().err
    assert json.loads(Path("out/predictions.json").read_text())["warnings"] == []


def test_an_ensemble_allows_it_only_where_every_member_does(tmp_path):
    one, _ = write_run(tmp_path / "one", **{"data.missing": "zeros"})
    two, _ = write_run(tmp_path / "two", seed=1)
    assert load_predictor(one, "cpu").missing == "zeros"
    assert load_predictor([one, two], "cpu").missing == "error"
    assert load_predictor(two, "cpu", changes={"data.missing": "zeros"}).missing == "zeros"


def test_the_picture_shows_a_modality_that_the_case_has(run, data):
    (case,) = [c for c in find_cases(data, missing="zeros") if c.id == "B"]
    predictor = load_predictor(run, "cpu")
    scan = read_scan(case)
    view = native_view(case, np.zeros(scan.image.shape[1:], np.uint8), predictor.labels)
    assert view.shown == ("FLAIR", "T2") and all(image.any() for image in view.images.values())
    titles = {panel.get_title() for panel in picture([view]).axes}
    assert {"axial FLAIR", "coronal T2: prediction"} <= titles and "axial T1ce" not in titles
