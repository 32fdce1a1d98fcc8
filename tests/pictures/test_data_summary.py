"""What the pictures of a data set's fingerprint say of the case that is not like the others."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from segmamba.data.labels import MODALITIES
from segmamba.data.summary import MeasuredCase
from segmamba.pictures import data_summary


def case(name, factor=1.0):
    row = {"mean": 100.0, "std": 30.0, "p0.5": 20.0, "median": 100.0, "p99.5": 250.0}
    spread = {key: factor * value for key, value in row.items()}
    intensities = {modality: spread if modality == "T2" else row for modality in MODALITIES}
    return MeasuredCase(name, name, (), (8, 8, 8), (1, 1, 1), (8, 8, 8), intensities, None)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(function, content): the figure that a picture is of."""
    kept = []
    monkeypatch.setattr(data_summary, "_save", lambda figure, path: kept.append(figure))

    def draw(function, content):
        function(tmp_path / "x.png", content)
        return kept[-1]

    return draw


def test_a_case_in_other_units_is_named_and_does_not_squash_the_others(drawn):
    cases = [case(f"usual {n}", 1 + 0.1 * n) for n in range(5)] + [case("odd $x$", 40.0)]
    panels = dict(zip(MODALITIES, drawn(data_summary.draw_intensities, cases).axes, strict=True))
    assert [text.get_text() for text in panels["T2"].texts] == ["odd $x$"]
    assert panels["T2"].get_xscale() == "symlog" and panels["T1"].get_xscale() == "linear"
    assert not panels["T1"].texts


def test_the_line_is_the_median_of_the_table_which_counts_cases_without(drawn):
    volumes = [{"ET": e, "TC": 5.0, "WT": 20.0} for e in (0.0, 0.0, 0.0, 8.0, 9.0)]
    panel = drawn(data_summary.draw_volumes, volumes).axes[0]
    heights = [float(line.get_segments()[0][0][1]) for line in panel.collections if _is_line(line)]
    assert heights == [5.0, 20.0], "ET's median is 0, which a logarithmic axis cannot show"
    assert np.median([v["ET"] for v in volumes]) == 0


def _is_line(collection):
    return hasattr(collection, "get_segments")


def test_names_of_far_cases_stand_apart_and_a_long_one_takes_no_room_of_the_panels(drawn):
    cases = [case(f"C{n}") for n in range(40)]
    cases += [case(f"far_{n}_" + "x" * 120 + str(n), 40.0 + n) for n in range(8)]
    figure = drawn(data_summary.draw_intensities, cases)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (panel,) = (axes for axes in figure.axes if axes.get_title() == "T2")
    assert panel.get_window_extent().width > 1.5 * figure.dpi
    boxes = sorted((text.get_window_extent(renderer) for text in panel.texts), key=lambda b: b.y0)
    assert len(boxes) == 8 and len({text.get_text() for text in panel.texts}) == 8
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
