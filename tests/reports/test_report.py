"""The report: complete, self-contained, unbreakable by odd studies."""

import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segmamba.reports.difference_figures import draw_differences
from segmamba.reports.exports import TABLE_FILES
from segmamba.reports.figures import draw_all
from segmamba.reports.report import write_report
from segmamba.reports.style import BASELINE_COLOUR, arm_colours
from segmamba.reports.tables import (
    PHANTOM_NOTICE,
    arm_table,
    duration,
    result_table,
)
from segmamba.reports.terminal import render_terminal
from segmamba.studies.results import Trial
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study

PICTURES = {"answer", "differences", "pareto", "cases", "curves"}
HOSTILE = (
    "a | b <script>alert(1)</script> [bold]x[/bold] & so on, "
    "at a length that no column of any table was made for"
)


@pytest.fixture(scope="module")
def study():
    """A contrast beside the baseline, a failed trial, one that never began, and phantom data."""
    made = synthetic_study(
        baseline="depth 2", than="depth 0", failed={("depth 1", 2)}, phantom=True, seeds=4
    )
    waiting = Trial(run_id="", arm="depth 4", seed=3, status="NOT STARTED", reason="never started")
    return dataclasses.replace(made, trials=(*made.trials[:-1], waiting))


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(study, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module", params=["report.md", "report.html"])
def text(request, folder):
    return (folder / request.param).read_text(encoding="utf-8")


def test_the_answer_stands_right_below_the_question(study, text):
    body = re.sub(r"<[^>]+>", "", text[text.index("<body>") :] if "<body>" in text else text)
    body = body.replace("*", "").replace("\N{NO-BREAK SPACE}", " ")
    sentence = verdict(study).sentence
    assert (
        body.index(study.question)
        < body.index(sentence)
        < body.index(PHANTOM_NOTICE)
        < body.index(study.hypothesis.claim)
    )


def test_every_planned_trial_is_there_with_its_reason(study, text):
    for trial in study.trials:
        assert trial.run_id in text
    assert "the loss became nan in epoch 7" in text
    assert "never started" in text and "not started" in text


def test_the_report_says_what_was_run_on_what_and_how_to_open_it(study, text):
    for part in (
        study.command,
        "mlflow ui --backend-store-uri sqlite:///Results/mlflow.db",
        "brats2023",
        "torch",
        "2.13.0",
        "optim.lr",
    ):
        assert part in text
    assert all(case in text for case in study.data.test)
    assert "validation is capped at 20 cases" in text


def test_what_differs_between_arms_comes_before_the_rest_of_the_configuration(text):
    configuration = text[text.rindex("Configuration") :]
    varied, shared = configuration.index("model.mamba_depths"), configuration.index("optim.lr")
    assert varied < configuration.index("3, 3, 3") < shared


def test_the_page_loads_nothing_from_anywhere(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<iframe|@import|\bsrc=|url\((?!#)", page)
    elsewhere = re.findall(r'(\w+)="https?:', page)
    assert set(elsewhere) == {"href"} and "http" not in re.sub(r'<a href="[^"]*"', "", page)
    assert page.count("<svg") == 2 * len(PICTURES), "each in two widths"


def test_ids_of_the_inlined_pictures_are_unique(folder):
    ids = re.findall(r'\bid="([^"]+)"', (folder / "report.html").read_text(encoding="utf-8"))
    assert ids and len(ids) == len(set(ids))


def test_markdown_shows_pictures_that_exist_and_nothing_half_written_is_left(folder):
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {f"plots/{name}.png" for name in PICTURES} == set(shown)
    tables = {f"tables/{name}" for name in TABLE_FILES}
    plots = {f"plots/{name}.{ending}" for name in PICTURES for ending in ("png", "svg", "pdf")}
    assert written == {"report.md", "report.html", *plots, *tables}
    links = re.findall(r'href="((?:plots|tables)/[^"]+)"', (folder / "report.html").read_text())
    assert set(links) == plots | tables, "the page links to each of them"


def test_the_terminal_shortens_its_own_words_and_no_arms_name():
    arms = ("mean Dice loss", "loss of Dice", "no training of gates", "gates (baseline)")
    study = synthetic_study(dict.fromkeys(arms, 0.0), seeds=2, cases=3, epochs=2)
    screen = io.StringIO()
    render_terminal(study, Console(file=screen, width=160))
    rows = [line for line in screen.getvalue().splitlines() if line.startswith(arms)]
    assert len(rows) == 4 and [" * " in row for row in rows] == [True, False, False, False]


def test_no_picture_is_cut_at_its_edge(folder):
    for path in (folder / "plots").glob("*.png"):
        with Image.open(path) as file:
            ink = np.asarray(file.convert("L")) < 200
        edges = (ink[:2], ink[-2:], ink[:, :2], ink[:, -2:])
        assert ink.any() and not any(edge.any() for edge in edges), path.name


def test_drawing_again_gives_the_same_report(study, folder, tmp_path):
    assert write_report(study, tmp_path).read_bytes() == (folder / "report.html").read_bytes()
    for path in sorted((folder / "plots").glob("*.pdf")):
        assert (tmp_path / "plots" / path.name).read_bytes() == path.read_bytes()


def test_hostile_names_break_neither_table_nor_page(tmp_path):
    study = synthetic_study({HOSTILE: 0.0, "b": 0.02}, seeds=2, cases=4, epochs=2)
    failed = dataclasses.replace(
        study.trials[-1], status="FAILED", reason="line one\nline | two <img src=x>", test_cases=[]
    )
    page = write_report(
        dataclasses.replace(study, trials=(*study.trials[:-1], failed)), tmp_path
    ).read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page
    assert "<script" not in markdown and "<img" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("| b | ")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) in (5, 9, 10) for row in rows)


@pytest.mark.parametrize(
    "options",
    [
        {"seeds": 1, "cases": 1},
        {"seeds": 2, "cases": 1},
        {"seeds": 3, "failed": {("depth 4", seed) for seed in range(3)}},
        {"seeds": 1, "failed": {(f"depth {d}", 0) for d in (0, 1, 2, 4)}},
        {"effects": {"only": 0.0}, "better": "only", "than": "only"},
        {"effects": {f"arm {i}": 0.0 for i in range(15)}, "seeds": 2, "cases": 3},
    ],
    ids=[
        "one seed, one case",
        "one case",
        "an arm failed",
        "everything failed",
        "one arm",
        "fifteen arms",
    ],
)
def test_odd_studies_are_reported_too(options, tmp_path):
    study = synthetic_study(**{"cases": 5, "epochs": 3, **options})
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert all(trial.run_id in page for trial in study.trials)
    render_terminal(study, Console(file=io.StringIO(), width=100))
    json.dumps(result_table(study), allow_nan=False)


def test_a_study_that_has_not_begun_can_be_reported(tmp_path):
    study = synthetic_study(seeds=2, cases=2)
    waiting = tuple(
        Trial(run_id="", arm=t.arm, seed=t.seed, status="NOT STARTED", reason="never started")
        for t in study.trials
    )
    study = dataclasses.replace(study, trials=waiting)
    assert "0 of 8 trials finished" in write_report(study, tmp_path).read_text(encoding="utf-8")
    assert draw_all(study) == {}


def test_nan_metrics_are_dashes_and_never_best():
    study = synthetic_study({"a": 0.0, "b": 0.02, "c": 0.2}, seeds=2, cases=3)
    broken = [
        dataclasses.replace(t, test_cases=[row | {"dice_mean": math.nan} for row in t.test_cases])
        if t.arm == "b"
        else t
        for t in study.trials
    ]
    study = dataclasses.replace(study, trials=tuple(broken))
    assert result_table(study)[1]["dice_mean"] == dict.fromkeys(("mean", "sd", "low", "high")) | {
        "seeds": 0
    }
    headers, rows = arm_table(study)
    column = headers.index("mean Dice")
    assert rows[1][column] == ("\N{EN DASH}", False)
    assert [best for _, best in (row[column] for row in rows)] == [False, False, True]
    json.dumps(result_table(study), allow_nan=False)


def test_result_table_averages_over_finished_seeds_only():
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=3, failed={("b", 1)})
    row = result_table(study)[1]
    scores = [
        t.metrics["test/dice_WT"] for t in study.trials if t.arm == "b" and t.status == "FINISHED"
    ]
    assert row["dice_WT"]["mean"] == pytest.approx(sum(scores) / 2)
    assert (row["seeds_finished"], row["seeds_planned"]) == (2, 3)


def test_hd95_and_the_last_checkpoint_get_a_column_only_where_they_were_measured():
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=3)
    extra = {
        "test/hd95_mm_ET": 4.0,
        "test/hd95_mm_TC": 5.0,
        "test/hd95_mm_WT": 9.0,
        "test/last_dice_mean": 0.5,
    }
    measured = dataclasses.replace(
        study, trials=tuple(dataclasses.replace(t, metrics=t.metrics | extra) for t in study.trials)
    )
    assert not {"HD95 (mm)", "last checkpoint"} & set(arm_table(study)[0])
    headers, rows = arm_table(measured)
    assert rows[0][headers.index("HD95 (mm)")][0] == "6.0 ± 0.0"
    assert rows[0][headers.index("last checkpoint")][0] == "50.0 ± 0.0"


def test_terminal_shows_every_arm_the_verdict_and_the_notice(study):
    screen = io.StringIO()
    render_terminal(study, Console(file=screen, width=1000))
    shown = screen.getvalue()
    assert all(arm in shown for arm in study.arms)
    assert verdict(study).sentence in shown and PHANTOM_NOTICE in shown


@pytest.mark.parametrize(
    ("width", "seed_sd", "measured", "columns"),
    [
        (80, 0.003, {}, "arm mean ET TC WT HD95 params time seeds"),
        (80, 0.3, {"test/last_dice_mean": 0.5}, "arm mean ET TC WT last HD95 time seeds"),
        (60, 0.3, {"test/last_dice_mean": 0.5}, "arm mean ET TC WT seeds"),
    ],
)
def test_the_terminal_table_fits_into_its_columns(width, seed_sd, measured, columns):
    screen, study = io.StringIO(), synthetic_study(seeds=2, cases=3, seed_sd=seed_sd)
    distances = {
        f"test/hd95_mm_{region}": 120.0 + 20 * seed
        for seed in (0, 1)
        for region in ("ET", "TC", "WT")
    } | measured
    study = dataclasses.replace(
        study,
        trials=tuple(dataclasses.replace(t, metrics=t.metrics | distances) for t in study.trials),
    )
    render_terminal(study, Console(file=screen, width=width))
    rows = [
        line
        for line in screen.getvalue().splitlines()
        if line.startswith("depth ") and line.rstrip().endswith("2/2")
    ]
    assert len(rows) == len(study.arms)
    assert "\N{HORIZONTAL ELLIPSIS}" not in screen.getvalue()
    assert columns.split() in [line.split() for line in screen.getvalue().splitlines()]


def test_terminal_prints_names_in_brackets_as_they_are():
    screen = io.StringIO()
    render_terminal(
        synthetic_study({"[2, 2, 2]": 0.0, "[red]": 0.02}, seeds=2, cases=3),
        Console(file=screen, width=200),
    )
    assert "[2, 2, 2] *" in screen.getvalue() and "[red]" in screen.getvalue()


def test_an_arm_keeps_its_colour_and_the_baseline_is_grey(study):
    colours = arm_colours(study)
    assert colours["depth 2"] == BASELINE_COLOUR
    assert len(set(colours.values())) == len(study.arms)


def test_wide_intervals_of_two_seeds_do_not_squeeze_the_picture():
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=4, seed_sd=0.02)
    figure = draw_differences(study)
    low, high = figure.axes[0].get_xlim()
    dots = [100 * value for value in verdict(study).difference.seed_differences]
    assert low < min(dots) and max(dots) < high
    assert high - low < 100 * (verdict(study).difference.high - verdict(study).difference.low)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (48, "0:48 min"),
        (190, "3:10 min"),
        (5040, "1 h 24 min"),
        (36000, "10 h 00 min"),
        (None, "\N{EN DASH}"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text


def test_what_was_planned_stands_beside_what_it_took(make_study, tmp_path):
    study = make_study()
    assert "Planned and taken" not in write_report(study, tmp_path).read_text()
    costs = {arm: {"train_s": 600.0} for arm in study.arms}
    planned = dataclasses.replace(
        study,
        resource_plan={"study_s": 7200.0, "why": "2 a GPU, eager: ends soonest", "arms": costs},
    )
    page = write_report(planned, tmp_path).read_text()
    assert (
        "2 a GPU, eager: ends soonest" in page
        and "2 h 00 min" in page
        and "12:34 min" in page
        and "10:00 min" in page
    )
    assert "| the study | 2 h 00 min | 12:34 min |" in (tmp_path / "report.md").read_text()
