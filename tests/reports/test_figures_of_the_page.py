"""The figures of a report: the one that answers, the margin's band, the patients by name."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from segmamba.reports.answer_figure import deciding_differences, draw_answer
from segmamba.reports.difference_figures import draw_differences
from segmamba.reports.figures import draw_all, draw_narrow
from segmamba.reports.images import save_figure, to_svg
from segmamba.reports.look_figures import draw_looks
from segmamba.reports.look_rows import look_rows
from segmamba.reports.patient_figures import AT_EACH_END, MOST_NAMED, draw_cases
from segmamba.reports.patient_rows import patient_table
from segmamba.reports.style import BAND, NARROW_IN, WIDTH_IN, report_style, short_name
from segmamba.reports.trial_figures import MOST_LINES, draw_curves
from segmamba.studies.verdict import verdict
from tests.reports.test_look_figures import looked_at
from tests.studies.synthetic import synthetic_study

NO_VIEWER = Path("there is no viewer here")


def drawn(draw, *arguments, **options):
    with report_style():
        return draw(*arguments, **options)


def longest_run_of_the_band(figure):
    """The most pixels of the band's colour beside each other in a row or a column, at 100 dpi."""
    png = io.BytesIO()
    figure.savefig(png, dpi=100, facecolor="white")
    pixels = np.asarray(Image.open(png).convert("RGB")).astype(int)
    band = np.abs(pixels - np.round(255 * np.array(to_rgb(BAND)))).max(-1) <= 2
    return min(band.any(0).sum(), band.any(1).sum())


@pytest.mark.parametrize("draw", [draw_answer, draw_differences, draw_cases])
def test_the_margins_band_is_seen_on_an_axis_a_hundred_times_as_wide(draw):
    study = synthetic_study({"a": 0.0, "b": 0.25}, seeds=3, cases=8, epochs=1, margin=0.002)
    assert longest_run_of_the_band(drawn(draw, study)) >= 3


def test_the_band_of_the_looks_is_seen_too():
    study = looked_at({"a": 0.0, "b": 0.3}, 3)
    assert longest_run_of_the_band(drawn(draw_looks, study)) >= 3


def test_the_picture_that_answers_shows_the_contrasts_of_the_claim_alone():
    study = synthetic_study(seeds=3, cases=8, epochs=1)
    shown = deciding_differences(study)
    assert [d.label for d in shown] == [verdict(study).difference.label]
    for width in (WIDTH_IN, NARROW_IN):
        figure = drawn(draw_answer, study, width_in=width)
        words = " ".join(text.get_text() for text in figure.axes[0].texts)
        assert "depth 4 \N{MINUS SIGN} depth 0" in words and figure.get_figwidth() == width
        low, high = (f"{100 * v:+.1f}" for v in (shown[0].low, shown[0].high))
        assert f"[{low}, {high}]" in words.replace("\N{MINUS SIGN}", "-")
    nothing = synthetic_study(seeds=1, cases=3, failed={("depth 4", 0)})
    assert drawn(draw_answer, nothing) is None


def test_one_seed_gives_a_hollow_mark_and_no_interval():
    (panel,) = drawn(draw_answer, synthetic_study(seeds=1, cases=8, epochs=1)).axes
    marks = [line for line in panel.lines if line.get_marker() == "D"]
    assert [line.get_markerfacecolor() for line in marks] == ["none"]
    assert "[" not in panel.texts[0].get_text()


@pytest.mark.parametrize("patients", [5, MOST_NAMED, MOST_NAMED + 1, 250])
def test_patients_are_named_all_or_those_at_both_ends(patients):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=patients, epochs=1)
    (panel,) = drawn(draw_cases, study).axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    ordered = [row["patient"] for row in patient_table(study, NO_VIEWER)["rows"]]
    if patients <= MOST_NAMED:
        assert names == ordered
    else:
        assert names == ordered[:AT_EACH_END] + ordered[-AT_EACH_END:]
        between = patients - 2 * AT_EACH_END
        assert panel.texts[0].get_text().startswith(f"{between} patients between")
    assert len(ordered) == patients


def test_the_patients_differences_are_those_of_their_scores():
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=8, timepoints=2, epochs=1)
    table = patient_table(study, NO_VIEWER)
    assert table["arms"] == ["b", "a"] and len(table["rows"]) == 4, "two cases each"
    for row in table["rows"]:
        one, other = map(float, row["scores"])
        found = float(row["difference"].replace("\N{MINUS SIGN}", "-"))
        assert one - other == pytest.approx(found, abs=0.11)
    mean = np.mean([float(r["difference"].replace("\N{MINUS SIGN}", "-")) for r in table["rows"]])
    assert mean == pytest.approx(100 * verdict(study).difference.mean, abs=0.1)


def test_a_figure_is_saved_in_every_form_and_draws_letters_that_its_font_lacks(tmp_path, recwarn):
    study = synthetic_study({"\N{BRAIN}": 0.0, "b": 0.02}, seeds=2, cases=6, epochs=1)
    element = save_figure(drawn(draw_answer, study), tmp_path, "answer")
    assert "\N{BRAIN}" in element and not re.search(r"https?:", element)
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "answer.pdf").read_bytes().startswith(b"%PDF")
    svg = (tmp_path / "answer.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml") and "\N{BRAIN}" in svg and "var(" not in svg
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def words_outside(figure):
    """The words of a figure that leave it; numbers of an axis are drawn within its limits alone."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    found = []
    for text in figure.findobj(Text):
        box = text.get_window_extent(renderer)
        over = max(-box.x0, box.x1 - figure.bbox.width, -box.y0, box.y1 - figure.bbox.height)
        if over > 2 and re.search("[a-z]", text.get_text()):
            found.append(text.get_text())
    return found


@pytest.mark.parametrize(
    "arms",
    [
        ("Mamba blocks in no stage", "Mamba blocks in every stage of two"),
        ("deep_supervision_with_attention_gates", "no_deep_supervision_and_no_attention_gates"),
        tuple(f"an arm with a name of many words {n}" for n in range(20)),
    ],
    ids=["words", "one word", "twenty"],
)
def test_the_words_of_a_figure_stay_within_it_and_leave_room_for_what_it_shows(arms):
    study = synthetic_study({arm: 0.01 * n for n, arm in enumerate(arms)}, seeds=2, cases=8)
    for draw in (draw_all, draw_narrow):
        for name, figure in draw(study).items():
            assert not words_outside(figure), name
            heights = [panel.get_window_extent().height / figure.dpi for panel in figure.axes]
            assert min(heights) > 0.6, name


def test_names_that_differ_at_their_ends_stay_apart_when_they_are_shortened():
    names = [f"model.mamba_depths=2-2-2-2_bidirectional_{end}" for end in ("on", "off")]
    names += ["mamba_depths_2222_scan_bidirectional_on", "a name of " + "many words " * 6 + "1"]
    short = [short_name(name) for name in names]
    assert len(set(short)) == 4 and all(len(name) <= 36 for name in short)
    assert short[0].startswith("model.mamba") and short[0].endswith("bidirectional_on")


def test_every_look_has_its_row_for_every_contrast():
    study = looked_at({"a": 0.0, "b": 0.01}, 4)
    rows = look_rows(study)
    assert [row["seeds"] for row in rows] == [look.seeds for look in study.looks]
    (first,) = rows[0]["contrasts"]
    assert first["interval"].startswith("[") and first["label"] == "b \N{MINUS SIGN} a"
    assert look_rows(dataclasses.replace(study, looks=())) == []


def test_thousands_of_curves_are_a_picture_in_the_figure_and_a_few_are_lines():
    def page(seeds):
        study = synthetic_study({"a": 0.0, "b": 0.01}, seeds=seeds, cases=1, epochs=12)
        return to_svg(drawn(draw_curves, study), "curves")

    few, many = page(MOST_LINES // 2), page(4 * MOST_LINES)
    assert "data:image/png" not in few and "data:image/png" in many
    assert len(many) < len(few), "eight times the trials, and a smaller page"
    assert many.count("<path") > 10, "the arms' means are lines"
