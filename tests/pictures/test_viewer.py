"""The viewer in Chromium: what it shows, what it says, and that it asks for nothing."""

from urllib.parse import quote

import numpy as np
import pytest

from segmamba.pictures import encode
from segmamba.pictures.encode import encode_case
from segmamba.pictures.niivue import niivue_is_installed
from segmamba.pictures.palette import CLASS_COLOURS, ERROR_COLOURS
from segmamba.pictures.viewer import viewer_section
from tests.pictures.conftest import ED, ET, SHAPE, made_view

if not niivue_is_installed():
    pytest.skip("ipyniivue is not installed", allow_module_level=True)
NAMES = ("<script>alert(1)</script>", "a|b [/bold]x", "\N{BRAIN} & co")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three cases; the second has two predictions."""
    cases = []
    for number, name in enumerate(NAMES):
        view = made_view(heading=name)
        share = np.where(view.truth == view.prediction, 0.0, 0.8)
        both = {"baseline": view.prediction, "deeper": view.truth}
        cases.append(
            encode_case(
                view,
                predictions=both if number == 1 else None,
                uncertainty=share,
                dice={"prediction": 0.9 - 0.1 * number, "baseline": 0.95, "deeper": 1.0},
            )
        )
    path = tmp_path_factory.mktemp("viewer") / "page.html"
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title>'
    path.write_text(f"{head}<body>{viewer_section(cases, 3)}</body></html>", encoding="utf-8")
    return path


def amount_of(image, colour):
    """The share of pixels of about this colour."""
    return (np.abs(image - np.array(colour)).max(-1) < 12).mean()


def changed(one, other):
    """The share of pixels that differ."""
    return (np.abs(one - other).max(-1) > 8).mean()


def test_cases_are_listed_from_the_worst_and_their_names_are_text(page, opened):
    shown = opened(page).wait()
    listed = shown.page.locator(".viewer-list button > span:first-child").all_text_contents()
    assert listed == [NAMES[2], NAMES[0], NAMES[1]]
    assert shown.page.locator(".viewer-dice").all_text_contents() == ["70.0", "90.0", "95.0"]
    assert NAMES[2] in shown.page.text_content(".viewer-pane header")
    assert "3 of 3 cases" in shown.page.text_content(".viewer-list p")
    shown.assert_silent_and_alone()


def test_every_layer_modality_plane_and_slice_changes_the_picture_by_the_keyboard(page, opened):
    shown = opened(page).wait()
    start = shown.press("a")
    assert start.std() > 10, "the canvas is not blank"
    now = start
    for key in ("t", "p", "e", "u", "2", "ArrowUp", "s", "c", "d", "m", "x", "PageUp", "ArrowLeft"):
        before, now = now, shown.press(key)
        assert changed(before, now) > 0.001, f"{key} changes nothing"
    pressed = shown.page.locator('[aria-pressed="true"]').all_text_contents()
    assert pressed == ["FLAIR", "planes and 3-D"]
    again = shown.press("n")
    assert NAMES[0] in shown.page.text_content(".viewer-pane header") and again.std() > 10
    shown.assert_silent_and_alone()


def test_a_layer_that_is_switched_off_and_on_looks_as_before_and_opacity_counts(page, opened):
    shown = opened(page).wait()
    start = shown.press("a")
    off = shown.press("p")
    assert changed(start, off) > 0.01 and changed(start, shown.press("p")) == 0
    shown.page.locator('[aria-label="opacity of prediction"]').fill("0")
    assert changed(off, shown.press("a")) == 0, "invisible is as good as off"


def test_the_values_are_those_of_the_files(page, opened):
    """The crosshair begins in the tumour's first slices, at voxel 4, 6, 2 of the case."""
    shown = opened(page).wait()
    view = made_view()
    said = shown.values()
    at = (view.affine @ [4, 6, 2, 1])[:3]
    assert said.startswith(f"x {at[0]:.1f}, y {at[1]:.1f}, z {at[2]:.1f} mm")
    assert "truth ED" in said and "prediction background" in said and "missed" in said
    assert "uncertainty 0.79" in said and view.truth[4, 6, 2] == ED
    values = dict(part.rsplit(" ", 1) for part in said.split(" \u00b7 ")[1:3])
    for modality, image in view.images.items():
        assert float(values[modality]) == pytest.approx(image[4, 6, 2], abs=1.5), modality
    for key in ("ArrowLeft",) * 3 + ("PageUp",) * 3 + ("ArrowUp",):
        shown.press(key)
    assert view.truth[7, 9, 3] == view.prediction[7, 9, 3] == ET
    assert "truth ET" in shown.values() and "agreed" in shown.values()


def test_the_patients_right_is_on_the_left_and_the_front_is_up(tmp_path, opened):
    for axis, key in ((0, "a"), (1, "a"), (2, "c")):
        image = np.full(SHAPE, 10, np.float32)
        image[
            tuple(slice(n // 2, None) if a == axis else slice(None) for a, n in enumerate(SHAPE))
        ] = 100
        view = made_view(images={"T1ce": image}, truth=None, prediction=None)
        path = tmp_path / f"{axis}.html"
        path.write_text(
            f"<!DOCTYPE html><meta charset=utf-8>{viewer_section([encode_case(view)], 1)}"
        )
        drawn = opened(path).wait().press(key).sum(-1)
        rows, columns = np.nonzero(drawn > 450)
        if axis == 0:
            assert columns.mean() < drawn.shape[1] / 2 - 10
        else:
            assert rows.mean() < drawn.shape[0] / 2 - 10


def test_an_image_that_was_averaged_lies_where_it_was(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(encode, "PLANS", ((256, 2, 2),))
    image = np.full(SHAPE, 10, np.float32)
    image[12:16, 4:8, 4:6] = 100
    view = made_view(images={"T1ce": image}, truth=(image > 50).astype(np.uint8), prediction=None)
    path = tmp_path / "coarse.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{viewer_section([encode_case(view)], 1)}")
    shown = opened(path).wait()
    assert "T1ce averaged over 2 voxels a side" in shown.page.text_content(".viewer-note")
    for key in ("ArrowLeft",) * 3 + ("ArrowLeft",):  # from voxel 12 to 16
        said = dict(part.rsplit(" ", 1) for part in shown.values().split(" \u00b7 ")[1:3])
        assert (float(said["T1ce"]) > 50, said["truth"]) == (True, "NCR")
        shown.press(key)
    said = dict(part.rsplit(" ", 1) for part in shown.values().split(" \u00b7 ")[1:3])
    assert (float(said["T1ce"]) > 50, said["truth"]) == (False, "background")


def test_segmentations_without_any_image_are_shown_too(tmp_path, opened):
    path = tmp_path / "bare.html"
    case = encode_case(made_view(images={}))
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{viewer_section([case], 1)}")
    shown = opened(path).wait()
    start = shown.press("a")
    assert start.std() > 5 and changed(start, shown.press("p")) > 0.005
    assert "truth ED" in shown.values() and "no image outside" in shown.values()
    shown.assert_silent_and_alone()


def test_two_predictions_stand_side_by_side_on_the_same_slice(page, opened):
    shown = opened(page, width=1400).wait()
    shown.page.click('[data-case="2"]')
    shown.wait().press("a", "t")
    assert shown.page.locator("canvas").count() == 2
    options = shown.page.locator(".viewer-pane select").first.locator("option").all_text_contents()
    assert options == ["baseline, Dice 95.0", "deeper, Dice 100.0"]
    one, other = shown.pixels(0), shown.pixels(1)
    assert one.shape == other.shape and 0.005 < changed(one, other) < 0.5
    shown.press("ArrowUp", "p")
    assert changed(other, shown.pixels(1)) > 0.005, "the second follows"
    assert changed(shown.pixels(0), shown.pixels(1)) < 0.002, "without predictions they are alike"
    shown.page.click('[data-case="0"]')
    shown.wait()
    assert shown.page.locator("canvas:visible").count() == 1
    shown.assert_silent_and_alone()


def test_errors_of_one_region_are_its_own(page, opened):
    shown = opened(page).wait()
    every = shown.press("a", "t", "p", "e")
    shown.page.select_option('[aria-label="errors of"]', "ET")
    assert changed(every, shown.press("a")) > 0.005


def test_only_one_layer_fills_so_that_colours_are_those_of_the_legend(page, opened):
    shown = opened(page).wait()
    for key, layer in (("e", "errors"), ("u", "uncertainty"), ("p", "prediction")):
        shown.press(key)
        on = shown.page.locator("[data-layer]:checked")
        assert [box.get_attribute("data-layer") for box in on.all()] == ["truth", layer]


def test_the_legend_names_what_is_shown_and_no_outline_is_taken_for_an_error(page, opened):
    """ED and "other class" are both orange: below errors and uncertainty the outline is white."""
    shown = opened(page).wait()
    shown.press("a", "x")
    orange = [int(CLASS_COLOURS["ED"][i : i + 2], 16) for i in (1, 3, 5)]

    def legend():
        return shown.page.locator(".viewer-legend span").all_text_contents()

    assert legend() == ["NCR", "ED", "ET"]
    before = shown.pixels()
    assert amount_of(before, orange) > 0.005
    over = shown.press("e")
    assert legend() == ["outline of the truth", *ERROR_COLOURS]
    assert amount_of(over, orange) == 0
    without = shown.press("t")
    assert legend() == list(ERROR_COLOURS)
    lighter = (over - without).max(-1) > 8
    assert lighter.mean() > 0.005 and ((over - without) >= -2).all(), "white below"
    shown.press("t")
    shown.press("u")
    assert legend() == ["outline of the truth", "uncertainty from 0 to 1"]
    shown.press("u")
    assert legend() == ["NCR", "ED", "ET"], "the truth alone"
    assert amount_of(shown.press("a"), orange) > 0.005
    shown.press("t")
    assert legend() == []


def test_the_crosshair_can_be_taken_off_what_it_hides(page, opened):
    shown = opened(page, width=1400).wait()
    shown.page.click('[data-case="2"]')
    shown.wait().press("a")
    button = shown.page.locator(".viewer-crosshair")
    before = [shown.pixels(pane) for pane in (0, 1)]
    button.click()
    for pane, with_it in enumerate(before):
        assert changed(with_it, shown.pixels(pane)) > 0.001
    assert button.get_attribute("aria-pressed") == "false"
    shown.press("x")
    assert button.get_attribute("aria-pressed") == "true"
    assert all(changed(with_it, shown.pixels(n)) == 0 for n, with_it in enumerate(before))


def test_the_viewer_stays_inside_narrow_and_wide_windows(page, opened):
    shown = opened(page).wait()
    for scheme in ("light", "dark"):
        shown.page.emulate_media(color_scheme=scheme)
        for width in (420, 1000, 1400):
            shown.page.set_viewport_size({"width": width, "height": 800})
            assert shown.widest() <= 0, (scheme, width)


def test_the_address_names_the_case_that_is_opened(page, opened):
    shown = opened(page)
    shown.page.goto(f"{page.as_uri()}#case={quote(NAMES[1], safe='')}")
    shown.page.reload()
    shown.wait()
    assert NAMES[1] in shown.page.text_content(".viewer-pane header")
    shown.page.evaluate("location.hash = '#case=' + encodeURIComponent('absent')")
    shown.page.evaluate(f"location.hash = {f'#case={quote(NAMES[0])}'!r}")
    shown.page.wait_for_function(
        "document.querySelector('.viewer-pane header').textContent.includes('alert')"
    )
    shown.wait().assert_silent_and_alone()
