"""What a Dice point costs, in the report and in the metrics of the study's run."""

import dataclasses
import itertools
import math
import re

import pytest
from mlflow.utils.validation import _validate_metric_name

from segmamba.reports.pareto_figures import draw_pareto
from segmamba.reports.pareto_rows import pareto_metrics, pareto_table
from segmamba.reports.report import write_report
from segmamba.reports.style import NARROW_IN, report_style
from segmamba.reports.units import in_unit, unit_of
from segmamba.studies.pareto import COSTS, Cost
from tests.studies.synthetic import synthetic_study
from tests.studies.test_pareto import priced

EFFECTS = {"small": 0.0, "large": 0.2, "waste": 0.1}
GIB = {"small": 1.0, "large": 3.0, "waste": 90.0}


def drawn(study, **options):
    with report_style():
        return draw_pareto(study, **options)


def test_every_measured_cost_has_a_panel_with_its_front():
    figure = drawn(priced(GIB, EFFECTS, seeds=3))
    (panel,) = figure.axes
    assert panel.get_xlabel() == "GPU memory (GiB)" and panel.get_xscale() == "log"
    (line,) = [line for line in panel.lines if line.get_drawstyle() == "steps-post"]
    xs, ys = line.get_data()
    assert list(xs)[:2] == [1.0, 3.0] and xs[2] > 90 and ys[0] < ys[1] == ys[2]
    faces = [line.get_markerfacecolor() for line in panel.lines if line.get_marker() == "D"]
    assert [face == "none" for face in faces] == [False, False, True], "hollow: behind"
    assert len(drawn(synthetic_study(cases=6, epochs=1)).axes) == 2, "time and parameters"


def test_arms_that_share_a_colour_have_marks_of_their_own():
    """The colours are six, and come again."""
    names = [f"arm {number}" for number in range(9)]
    study = priced({name: 1.0 + i for i, name in enumerate(names)}, seeds=1)
    figure = drawn(study)
    shown = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len([look for look in shown if look[1] in "Dos"]) == len(names)
    (legend,) = figure.legends
    looks = {(handle.get_color(), handle.get_marker()) for handle in legend.legend_handles}
    assert looks <= shown and len(looks) == len(names)


def test_a_small_screen_has_the_costs_below_each_other_as_large_as_words(tmp_path):
    study = synthetic_study(cases=6, epochs=1)
    figure = drawn(study, width_in=NARROW_IN)
    lefts = {round(panel.get_subplotspec().colspan.start) for panel in figure.axes}
    assert lefts == {0} and figure.get_figwidth() == NARROW_IN
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert page.count('<div class="narrow">') == 5, "of each figure, and as large as the words"


def test_the_numbers_below_a_cost_do_not_touch():
    costs = {"a": 54_175.0, "b": 54_298.0, "c": 54_300.0}
    study = priced(dict.fromkeys(costs), seeds=1)
    trials = tuple(
        dataclasses.replace(t, metrics=t.metrics | {"model/parameters": costs[t.arm]})
        for t in study.trials
    )
    figure = drawn(dataclasses.replace(study, trials=trials), width_in=2.7)
    figure.draw_without_rendering()
    (panel,) = figure.axes
    boxes = [
        label.get_window_extent()
        for label in panel.get_xticklabels()
        if panel.get_xlim()[0] <= label.get_position()[0] <= panel.get_xlim()[1]
    ]
    assert len(boxes) > 1 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_an_interval_of_dice_that_leaves_the_panel_ends_in_an_arrow():
    study = priced({"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.001}, seeds=2, seed_sd=0.05)
    (panel,) = drawn(study).axes
    low, high = panel.get_ylim()
    marks = {line.get_marker() for line in panel.lines}
    assert {"v", "^"} & marks and high - low < 40
    assert all(low <= y <= high for line in panel.lines for y in line.get_ydata())


def test_the_table_says_who_is_on_the_front_and_who_is_behind_whom():
    table = pareto_table(priced(GIB, EFFECTS, seeds=3))
    assert table["headers"] == ["GPU memory (GiB)"]
    (small,), (large,), (waste,) = (row["cells"] for row in table["rows"])
    assert small == ("1.00", "front in 100 %", True) and large[2]
    assert re.fullmatch(r"behind large \+\d+\.\d \[.*\]", waste[1]) and not waste[2]
    assert any(note.startswith("parameters: not drawn") for note in table["notes"])
    assert pareto_table(priced({"a": None}, seeds=1))["rows"] == []


def test_metrics_of_the_front_have_names_that_mlflow_takes_and_that_do_not_meet():
    names = ["a|b", "a/b", "..", "<script>", "[/bold]x", "\N{BRAIN}", "\N{CAT}", "x" * 300]
    costs = {name: float(i + 1) for i, name in enumerate(names)}
    found = pareto_metrics(priced(costs, seeds=1))
    assert len(found) == len(names)
    assert found["pareto/memory/a_b"] == 1.0 and set(found.values()) <= {0.0, 1.0}
    for name in found:
        _validate_metric_name(name)
        assert len(name) <= 250


@pytest.mark.parametrize(
    ("metric", "values", "unit"),
    [
        ("time/train_total_s", [3.0, 110.0], "s"),
        ("time/train_total_s", [3.0, 130.0], "min"),
        ("time/train_total_s", [7200.0], "h"),
        ("model/parameters", [9e5], "millions"),
        ("model/parameters", [9e3], "thousands"),
        ("memory/gpu_peak_gib", [0.2], "GiB"),
    ],
)
def test_costs_are_shown_in_the_unit_of_the_largest(metric, values, unit):
    cost = next(cost for cost in COSTS if cost.metric == metric)
    assert isinstance(cost, Cost) and unit_of(cost, values)[0] == unit


def test_costs_have_three_digits():
    assert [in_unit(v, 1.0) for v in (0.70249, 1.0, 12.345, 1234.5)] == [
        "0.702",
        "1.00",
        "12.3",
        "1234",
    ]
    assert in_unit(None, 1.0) == "\N{EN DASH}"


def test_a_study_of_before_the_predictions_were_timed_is_reported_without_that_cost():
    study = synthetic_study(cases=6, epochs=1)
    table = pareto_table(study)
    assert (
        "inference time of a case: not drawn, no finished trial has time/predict_case_s"
        in (table["notes"])
    )
    with_nan = tuple(
        dataclasses.replace(t, metrics=t.metrics | {"time/predict_case_s": math.nan})
        for t in study.trials
    )
    assert draw_pareto(dataclasses.replace(study, trials=with_nan)) is not None
