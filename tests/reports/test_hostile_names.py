"""Names that mean something in HTML, Markdown or rich show as themselves on every page of reports.

tests/reports/test_page.py has the study's page in a browser, tests/pictures the viewer and the
pages of predictions and evaluations, tests/orchestration/test_mlflow_pages.py those of MLflow.
"""

import io
import itertools
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.table import Table

from segmamba.commands.shared import console
from segmamba.pictures.encode import encode_case
from segmamba.reports import ensemble_report, inference_report
from segmamba.reports.ensemble_report import write_ensemble_report
from segmamba.reports.inference_report import write_inference_report
from segmamba.reports.report import write_live_page
from segmamba.reports.study_viewer import write_viewer
from segmamba.studies.inference_results import InferenceAblation
from segmamba.studies.results import StudyData
from tests.orchestration.test_ensemble import ensemble_of, group_of
from tests.pictures.conftest import made_view
from tests.reports.test_page import NAMES, hostile_study, live

COLUMNS = ("dice_mean", "dice_ET", "dice_TC", "dice_WT", "hd95_mm_mean", "lesionwise_dice_mean")


class Read(HTMLParser):
    """What a reader sees of a page, and how often each element is there."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags, self._hidden = [], [], False
        self.feed(page)
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden = False

    def handle_data(self, data):
        self.words.append("" if self._hidden else data)


def cells_of(markdown):
    """The texts of a page's cells; fails where a name has become a part of its structure."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert not [t for t in tokens if t.type == "html_block" and "script" in t.content]
    inline = [child for t in tokens if t.type == "inline" for child in t.children]
    assert not [child for child in inline if child.type == "html_inline"]
    return "\n".join(
        "".join(child.content for child in t.children) for t in tokens if t.type == "inline"
    )


def printed(render, results):
    screen = Console(width=160, record=True, file=io.StringIO())
    render(results, screen)
    return screen.export_text()


@pytest.fixture(scope="module")
def ablation():
    rows = [
        dict.fromkeys(COLUMNS, 0.1 * number) | {"case": name, "patient": name, "seconds": 1.0}
        for number, name in enumerate(NAMES)
    ]
    return InferenceAblation(
        name="n",
        baseline=NAMES[0],
        arms={name: {"inference.flips": name} for name in NAMES},
        checkpoints=(f"runs/{NAMES[0]}",),
        rows={name: [rows] for name in NAMES},
        data=StudyData(source=NAMES[2], phantom=False, convention="brats2018", test=NAMES),
        environment={},
        command="",
        mlflow_uri="",
        run_id="",
        seconds=0.0,
    )


def test_on_the_page_of_a_running_study(tmp_path):
    study = hostile_study()
    page = Read(write_live_page(study, tmp_path, live(1, NAMES[0])).read_text(encoding="utf-8"))
    assert all(name in page.text for name in NAMES) and "script" not in page.tags


def test_on_the_page_of_a_studys_cases(tmp_path):
    study = hostile_study()
    cases = [encode_case(made_view(heading=name), group=f"worst of {name}") for name in NAMES]
    plain = [encode_case(made_view(heading="x"), group="worst of x") for _ in NAMES]
    notes = [f"{name}: its weights are gone" for name in NAMES]
    page, harmless = (
        Read(write_viewer(tmp_path, study, shown, 9, notes).read_text(encoding="utf-8"))
        for shown in (cases, plain)
    )
    for name in NAMES:
        assert page.text.count(name) >= 3, name
    assert page.tags == harmless.tags, "no name is an element"


def test_in_whatever_table_a_command_prints():
    """The folds of a data set, the plan of a study: no text of ours is markup."""
    screen = io.StringIO()
    table = Table("case", ":brain: [bold]")
    for name in NAMES:
        table.add_row(name, name)
    console(file=screen).print(table)
    assert all(screen.getvalue().count(name) == 2 for name in NAMES)
    assert ":brain: [bold]" in screen.getvalue()


def test_in_the_report_of_an_inference_ablation(ablation, tmp_path):
    path = write_inference_report(ablation, tmp_path)
    page = Read(path.read_text(encoding="utf-8"))
    shown = cells_of(path.with_suffix(".md").read_text(encoding="utf-8"))
    told = printed(inference_report.render_terminal, ablation)
    for name in NAMES:
        assert name in page.text and name in shown and name in told, name
    assert "script" not in page.tags


@pytest.mark.parametrize("names", list(itertools.pairwise(NAMES)))
def test_in_the_report_of_an_ensemble(names, tmp_path):
    found = ensemble_of(*(group_of(name, [0.79, 0.80], 0.83) for name in names))
    path = write_ensemble_report(found, tmp_path)
    page = Read(path.read_text(encoding="utf-8"))
    shown = cells_of(path.with_suffix(".md").read_text(encoding="utf-8"))
    told = printed(ensemble_report.render_terminal, found)
    for name in names:
        assert f"{name} 1" in page.text and f"{name} 1" in shown and name in told, name
    assert "script" not in page.tags
