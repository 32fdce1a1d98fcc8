"""The pictures of the documentation: all drawn by one command, shown somewhere, and of today."""

import dataclasses
import re

import pytest
from PIL import Image

from docs import draw_pictures
from docs.draw_pictures import DRAWN, IMAGES, OF_THE_STUDY, PICTURES, asked_by, shown_by
from search_spaces.ablate_depth import STUDY
from segmamba.config import preset
from segmamba.studies.spec import resolve
from tests.docs.test_commands import PAGES, ROOT

LARGEST_KIB = 320


def asked_today():
    """What the demo's study asks."""
    return asked_by(resolve(STUDY, preset("demo")).only([], "demo"))


def test_every_picture_is_drawn_by_make_pictures():
    drawn = {name for names in PICTURES.values() for name in names}
    assert drawn == {path.name for path in IMAGES.iterdir()} and PICTURES.keys() == DRAWN.keys()
    assert set(OF_THE_STUDY) <= drawn
    makefile = (ROOT / "Makefile").read_text()
    assert "\npictures: " in makefile and "docs/draw_pictures.py\n" in makefile


def test_every_picture_is_on_a_page():
    pages = "\n".join((ROOT / page).read_text() for page in PAGES)
    shown = set(re.findall(r"images/([\w.-]+)\)", pages))
    assert shown == {path.name for path in IMAGES.iterdir()}


@pytest.mark.parametrize("name", sorted(path.name for path in IMAGES.iterdir()))
def test_a_picture_is_of_a_sensible_size(name):
    assert (IMAGES / name).stat().st_size < LARGEST_KIB * 1024
    with Image.open(IMAGES / name) as picture:
        assert picture.format == "PNG" and 600 <= picture.width <= 1800


@pytest.mark.parametrize("name", OF_THE_STUDY)
def test_a_picture_of_the_study_is_of_its_arms_and_claims_of_today(name):
    assert shown_by(IMAGES / name) == asked_today(), (
        f"{name} shows another study than search_spaces/ablate_depth.py declares: make pictures"
    )


def test_another_arm_or_claim_is_told_from_the_pictures(tmp_path, monkeypatch):
    spec = resolve(STUDY, preset("demo")).only([], "demo")
    arms = dict(spec.arms) | {"depth 9": {}}
    claim = dataclasses.replace(spec.hypothesis, claim="Another claim.")
    monkeypatch.setattr(draw_pictures, "IMAGES", tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "drawn.png")
    draw_pictures.save(tmp_path / "drawn.png", "kept.png", asked_by(spec))
    assert shown_by(tmp_path / "kept.png") == asked_by(spec)
    for other in (
        dataclasses.replace(spec, arms=arms),
        dataclasses.replace(spec, hypothesis=claim),
    ):
        assert shown_by(tmp_path / "kept.png") != asked_by(other)
    assert shown_by(tmp_path / "drawn.png") == {}
