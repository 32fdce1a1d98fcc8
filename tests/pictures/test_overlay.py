"""What a picture of a case says, read from the figure and from its pixels."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba

from segmamba.data.label_sets import LABEL_SETS, POST_TREATMENT
from segmamba.pictures.overlay import draw_cases, picture, thumbnail
from segmamba.pictures.palette import DARK, ERROR_COLOURS, LIGHT, REGION_COLOURS
from segmamba.pictures.panel import outline_widths
from segmamba.pictures.view import errors, surroundings
from tests.pictures.conftest import ED, ET, SHAPE, made_view


def panels(view, **options):
    """{title: panel} of the picture of a case."""
    return {panel.get_title(): panel for panel in picture([view], **options).axes}


def texts(panel):
    return [text.get_text() for text in panel.texts]


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def seen(panel):
    """The pixels of a panel, the top first."""
    whole, box = pixels(panel.figure), panel.bbox
    height = whole.shape[0]
    return whole[height - round(box.y1) : height - round(box.y0), round(box.x0) : round(box.x1)]


def has(image, colour, tolerance=12):
    wanted = np.array(to_rgba(colour)[:3]) * 255
    return bool((np.abs(image - wanted).max(-1) < tolerance).any())


def test_every_panel_names_plane_modality_sides_slice_and_scale(view):
    drawn = panels(view)
    assert list(drawn)[:5] == [
        "axial T1ce",
        "axial FLAIR",
        "axial T1ce: truth",
        "axial T1ce: prediction",
        "axial T1ce: errors",
    ]
    assert len(drawn) == 15
    # The tumour is a cuboid: its first slice, at the indices 4, 6 and 2, is its largest.
    assert {"R", "L", "A", "P", "z = +9.0 mm"} <= set(texts(drawn["axial T1ce"]))
    assert {"R", "L", "S", "I", "y = -24.0 mm"} <= set(texts(drawn["coronal FLAIR"]))
    assert {"A", "P", "S", "I", "x = -6.0 mm"} <= set(texts(drawn["sagittal T1ce: errors"]))
    for panel in drawn.values():
        assert [line.get_label() for line in panel.lines] == ["scale"]


@pytest.mark.parametrize(
    ("plane", "axis", "first"), [("axial", 0, "R"), ("coronal", 0, "R"), ("sagittal", 1, "A")]
)
def test_the_letter_stands_on_the_side_that_it_names(view, plane, axis, first):
    """The half towards R (x, RAS+) or A (y) is bright; its letter stands on the bright side."""
    image = np.full(SHAPE, 1.0, np.float32)
    half = tuple(slice(n // 2, None) if a == axis else slice(None) for a, n in enumerate(SHAPE))
    image[half] = 100
    panel = panels(replace(view, images={"T1ce": image}))[f"{plane} T1ce"]
    letters = {text.get_text(): text.xy[0] for text in panel.texts}
    shown = seen(panel)
    middle, third = shown.shape[0] // 3, shown.shape[1] // 3
    left, right = (shown[middle, place].mean() for place in (third, -third))
    assert (left > right) == (letters[first] == 0) and abs(left - right) > 100


def test_upwards_is_superior_and_forwards(view):
    for plane, axis, letter in (("coronal", 2, "S"), ("sagittal", 2, "S"), ("axial", 1, "A")):
        image = np.full(SHAPE, 1.0, np.float32)
        image[
            tuple(slice(n // 2, None) if a == axis else slice(None) for a, n in enumerate(SHAPE))
        ] = 100
        panel = panels(replace(view, images={"T1ce": image}))[f"{plane} T1ce"]
        shown = seen(panel)
        above, below = (
            shown[round(shown.shape[0] * y), shown.shape[1] // 3].mean() for y in (0.35, 0.65)
        )
        assert above > below + 100
        assert {text.get_text(): text.xy[1] for text in panel.texts}[letter] == 1


def test_the_slice_is_where_the_files_say_also_after_a_cut(view):
    box = surroundings(view.tumour())
    assert [side.start for side in box] == [2, 3, 1]
    part = view.cut(box)
    for axis in range(3):
        start = box[axis].start
        assert part.position_mm(axis, 2) == pytest.approx(view.position_mm(axis, 2 + start))
    assert view.position_mm(2, 3) == 5 + 2 * 3


def test_the_scale_bar_is_as_long_as_it_says_on_anisotropic_voxels(view):
    for panel in panels(view).values():
        (bar,) = panel.lines
        x = bar.get_xdata()
        left, right = panel.get_xlim()
        (said,) = [text.strip() for text in texts(panel) if text.endswith("mm\n")]
        assert said == f"{(x[1] - x[0]) * (left - right):g} mm"
        height, width = (abs(np.subtract(*f())) for f in (panel.get_ylim, panel.get_xlim))
        assert height / panel.bbox.height == pytest.approx(width / panel.bbox.width), (
            "mm are square"
        )


def test_the_core_is_seen_where_it_coincides_with_the_enhancing_tumour(view):
    shown = seen(panels(view)["axial T1ce: truth"])
    for region in ("ET", "TC", "WT"):
        assert has(shown, REGION_COLOURS[region]), region


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_an_outer_region_has_a_wider_outline(labels):
    widths = outline_widths(labels)
    assert widths.keys() == set(labels.outlined)
    for region, outer in labels.within.items():
        if outer:
            assert widths[outer] > widths[region] + 1, (region, outer)


def test_errors_share_out_all_that_either_calls_tumour(view):
    found = errors(view.truth, view.prediction)
    tumour = (view.truth > 0) | (view.prediction > 0)
    assert (sum(mask.astype(int) for mask in found.values()) == tumour).all()
    assert found["missed"][4].any() and not found["missed"][14].any()
    assert found["false"][14].any() and not found["false"][4].any()
    assert (
        found["other class"].sum()
        == ((view.truth != view.prediction) & (view.truth > 0) & (view.prediction > 0)).sum()
    )
    assert {ED, ET} == set(np.unique(view.truth[found["agreed"]]))


def test_the_map_of_errors_shows_missed_and_false_and_the_prediction_alone_has_none(view):
    shown = panels(view)
    for name in ("missed", "false", "other class"):
        colour = np.array(to_rgba(ERROR_COLOURS[name])[:3])
        image = shown["axial T1ce: errors"].images[1].get_array()
        assert np.isclose(image[..., :3], colour).all(-1).any(), name
    alone = panels(replace(view, truth=None))
    assert not [title for title in alone if "error" in title or "truth" in title]
    assert "coronal FLAIR: prediction" in alone


def test_headings_are_shown_as_they_are_written(view, tmp_path):
    figure = picture([replace(view, heading="a|b <script> $x^2$ [/bold]x")], DARK)
    assert [text.get_text() for text in figure.texts] == ["a|b <script> $x^2$ [/bold]x"]
    assert not figure.texts[0].get_parse_math()
    draw_cases(tmp_path / "x.png", [view, view])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["BraTS-GLI-00001-000_" * 7, "M" * 131, "many words " * 12])
def test_a_long_heading_is_wrapped_and_the_panels_keep_their_place(view, name):
    figure = picture([replace(view, heading=f"worst case {name}, Dice 12.3"), view])
    renderer = FigureCanvasAgg(figure).get_renderer()
    (heading, _) = figure.texts
    box, page = heading.get_window_extent(renderer), figure.bbox
    assert box.x0 >= 0 and box.x1 <= page.width and box.y1 <= page.height
    titles = [panel.title.get_window_extent(renderer) for panel in figure.axes]
    assert max(title.y1 for title in titles) < box.y0
    assert figure.axes[0].get_window_extent().width == pytest.approx(
        picture([view]).axes[0].get_window_extent().width
    )


def test_a_name_that_the_font_lacks_is_drawn_without_a_warning(view, tmp_path):
    named = replace(view, heading="M\u00fcller \N{BRAIN} \u60a3\u8005")
    (heading,) = picture([named]).texts
    assert heading.get_text().startswith("M\u00fcller \ufffd ")
    draw_cases(tmp_path / "x.png", [named])


def test_a_light_picture_differs_from_a_dark_one_around_the_images_only(view):
    dark, light = (picture([view], theme) for theme in (DARK, LIGHT))
    assert (pixels(dark)[0, 0] == 0).all() and (pixels(light)[0, 0] == 255).all()
    for one, other in zip(dark.axes[:3], light.axes[:3], strict=True):
        assert (seen(one) == seen(other)).mean() > 0.98


@pytest.mark.parametrize("theme", [DARK, LIGHT], ids=["dark", "light"])
def test_what_the_legend_shows_stands_out_from_the_page(view, theme):
    """On white, the yellow of TC and the grey of "agreed" do so by a black edge alone."""
    figure = picture([view], theme)
    brightness = pixels(figure) @ (0.30, 0.59, 0.11)
    handles = figure.legends[0].legend_handles
    assert [handle.get_label() for handle in handles] == ["ET", "TC", "WT", *ERROR_COLOURS]
    for handle in handles:
        box = handle.get_window_extent().padded(4)
        top = brightness.shape[0] - round(box.y1)
        shown = brightness[top : round(top + box.height), round(box.x0) : round(box.x1)]
        paper = brightness[0, 0]
        assert np.abs(shown - paper).max() > 60, handle.get_label()


def test_a_case_without_images_or_tumour_or_of_one_slice_is_drawn(view):
    from PIL import Image

    bare = replace(view, images={}, truth=None)
    empty = replace(view, truth=np.zeros(SHAPE, np.uint8), prediction=np.zeros(SHAPE, np.uint8))
    flat = made_view().cut((slice(0, 20), slice(0, 24), slice(4, 5)))
    cavity = replace(view, labels=POST_TREATMENT, truth=(view.truth > 0).astype(np.uint8) * 4)
    for one in (bare, empty, flat, cavity):
        assert len(picture([one]).axes) >= 3
        drawn = np.asarray(Image.open(io.BytesIO(thumbnail(one))))
        assert drawn.shape[1] > 900 and drawn.max() > 0
