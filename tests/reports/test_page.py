"""The report as a reader meets it: in Chromium at several widths, on paper, and as Markdown."""

import dataclasses
import io
import itertools
import re
import zlib

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from segmamba.reports.report import Live, write_live_page, write_report
from segmamba.reports.terminal import render_terminal
from segmamba.studies.results import Trial
from tests.studies.synthetic import synthetic_study

NAMES = ("<script>alert(1)</script>", "[/bold]x", "a|b", "\N{BRAIN} & co", "*x* $y$ _z_ `q`")
WIDTHS = (420, 1000, 1400)
SHEET_PX = 688
"""The width of the text on a sheet of A4."""
SPACE = {f"optim.setting_number_{i}": "0.0001 to 0.01, log" for i in range(6)}
CUT = """[...document.querySelectorAll('table, td, th, p, li, pre, svg, h1, summary, a, progress')]
    .filter((e) => !e.closest('svg') || e.tagName === 'svg')
    .map((e) => [e.tagName + ' ' + e.className, e.getBoundingClientRect()])
    .filter(([, r]) => r.width > 0 && (r.right > innerWidth + 0.5 || r.left < -0.5))
    .map(([name, r]) => `${name} ${r.left} to ${r.right}`)"""
BROKEN = """[...document.querySelectorAll('td:first-child')].flatMap((cell) => {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
    while (walk.nextNode())
        for (const word of walk.currentNode.data.matchAll(/\\S+/g)) {
            const range = document.createRange();
            range.setStart(walk.currentNode, word.index);
            range.setEnd(walk.currentNode, word.index + word[0].length);
            const tops = new Set([...range.getClientRects()].map((r) => Math.round(r.top)));
            if (tops.size > 1 && word[0].length <= 14) found.push(word[0]);
        }
    return found;
})"""
SCROLLED = """[...document.querySelectorAll('*')].filter((e) =>
    getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1
    && !e.closest('svg')).map((e) => e.tagName)"""


def hostile_study():
    """Eight arms and cases with hostile names, every column, a search of six settings, a plan."""
    long = ("an arm with a name that has many words in it", "no_deep_supervision_and_no_attention")
    effects = dict.fromkeys([*NAMES, *long, "g"], 0.0)
    study = synthetic_study(
        effects | {"g": 0.03}, seeds=3, cases=14, epochs=2, better="g", than=NAMES[0], phantom=True
    )
    called = dict(zip(study.data.test, NAMES, strict=False))
    trials = []
    for number, trial in enumerate(study.trials):
        rows = []
        for row in trial.test_cases:
            name = called.get(row["case"], row["case"])
            scores = {"hd95_mm_WT": 21.5, "nsd_1mm_mean": 0.5, "last_dice_mean": 0.7}
            rows.append(row | scores | {"case": name, "patient": name})
        costs = {"time/predict_case_s": 1.0 + number, "memory/gpu_peak_gib": 20.0 - number / 3}
        trials.append(dataclasses.replace(trial, test_cases=rows, metrics=trial.metrics | costs))
    searched = tuple(
        Trial(
            run_id=f"run{number}" + "b" * 28,
            arm=f"trial {number:02d}",
            seed=0,
            status="FINISHED",
            changes=dict.fromkeys(SPACE, 0.00123456),
            metrics={"val/best_dice_mean": 0.5 + 0.01 * number},
        )
        for number in range(3)
    )
    plan = {"study_s": 7200.0, "why": "2 a GPU", "arms": {a: {"train_s": 600.0} for a in effects}}
    data = dataclasses.replace(
        study.data, test=tuple(called.get(case, case) for case in study.data.test)
    )
    return dataclasses.replace(
        study, trials=tuple(trials), searched=searched, space=SPACE, resource_plan=plan, data=data
    )


@pytest.fixture(scope="module")
def study():
    return hostile_study()


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "viewer.html").write_text(
        '<script class="viewer-case" data-id="&lt;script&gt;alert(1)&lt;/script&gt;"></script>'
    )
    write_report(study, folder)
    return folder


def assert_whole(page, where):
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0, where
    assert page.evaluate(CUT) == [] and page.evaluate(SCROLLED) == [], where


def test_nothing_is_cut_at_any_width_on_paper_or_in_the_dark(folder, opened):
    shown = opened(folder / "report.html")
    shown.page.evaluate("document.querySelectorAll('details').forEach((e) => e.open = true)")
    for scheme in ("light", "dark"):
        shown.page.emulate_media(media="screen", color_scheme=scheme)
        for width in WIDTHS:
            shown.page.set_viewport_size({"width": width, "height": 800})
            assert_whole(shown.page, (scheme, width))
    shown.page.emulate_media(media="print")
    shown.page.set_viewport_size({"width": SHEET_PX, "height": 900})
    assert_whole(shown.page, "print")
    shown.assert_silent_and_alone()


def test_no_name_of_an_arm_is_broken_within_a_word(tmp_path, opened):
    effects = {"instance norm": 0.0, "depth 0": -0.02, "depth 1": -0.005}
    study = synthetic_study(effects, seeds=3, cases=8, epochs=2, better="depth 1", than="depth 0")
    shown = opened(write_report(study, tmp_path))
    for width in (360, 420, 560, 700, 1000):
        shown.page.set_viewport_size({"width": width, "height": 800})
        assert shown.page.evaluate(BROKEN) == [], width
        assert_whole(shown.page, width)


def test_every_figure_is_drawn_for_small_screens_with_words_as_large_as_the_text(folder, opened):
    shown = opened(folder / "report.html", width=420)
    shown.page.evaluate("document.querySelectorAll('details').forEach((e) => e.open = true)")
    sizes = shown.page.locator("figure").evaluate_all(
        """(all) => all.map((figure) => {
            const svg = [...figure.querySelectorAll('svg')].find((e) => e.getClientRects().length);
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            const sizes = [...svg.querySelectorAll('text')].map((e) =>
                parseFloat(getComputedStyle(e).fontSize) * scale);
            return [figure.id, Math.min(...sizes)];
        })"""
    )
    assert {"answer", "differences", "curves", "cases", "pareto", "search"} <= dict(sizes).keys()
    assert all(px > 9.5 for _, px in sizes), sizes


def test_a_wide_table_is_folded_where_it_does_not_fit_and_names_its_columns(folder, opened):
    shown = opened(folder / "report.html", width=1400)
    arms = shown.page.locator("#arms + table")
    assert arms.locator("thead").is_visible()
    shown.page.set_viewport_size({"width": 420, "height": 800})
    assert not arms.locator("thead").is_visible()
    cell = arms.locator("tbody tr").first.locator("td").nth(1)
    title = cell.evaluate("(e) => getComputedStyle(e, '::before').content")
    assert title == '"mean Dice"'
    searched = shown.page.locator("#search ~ table").first
    assert "fold-always" in searched.get_attribute("class"), "six settings never fit"


def test_the_small_screen_has_a_picture_of_its_own_and_the_dark_page_dark_colours(folder, opened):
    shown = opened(folder / "report.html", width=1000, scheme="dark")
    wide, narrow = shown.page.locator("#answer .usual"), shown.page.locator("#answer .narrow")
    assert wide.is_visible() and not narrow.is_visible()
    ink = shown.page.locator("#answer .usual text").first
    assert ink.evaluate("(e) => getComputedStyle(e).fill") == "rgb(231, 233, 235)"
    shown.page.set_viewport_size({"width": 420, "height": 800})
    assert narrow.is_visible() and not wide.is_visible()


def test_hostile_names_show_as_themselves_on_the_page(folder, opened):
    shown = opened(folder / "report.html")
    text = shown.page.text_content("body")
    first = shown.page.locator("#arms + table td:first-child").all_text_contents()
    assert [name.removesuffix(" (baseline)") for name in first[: len(NAMES)]] == list(NAMES)
    patients = shown.page.locator("#patients ~ details td:first-child").all_text_contents()
    assert set(NAMES) <= set(patients)
    bars = shown.page.locator("#cases svg text").all_text_contents()
    assert set(NAMES) <= set(bars), "the bars are named"
    assert "\\u00" not in text and "&lt;" not in text and "&amp;" not in text
    shown.assert_silent_and_alone()


def test_patients_link_to_the_viewer_and_trials_to_their_runs(study, folder, opened):
    shown = opened(folder / "report.html")
    links = shown.page.locator("a[href^='viewer.html#']").evaluate_all(
        "(all) => all.map((a) => [a.textContent, decodeURIComponent(a.hash)])"
    )
    assert links == [[NAMES[0], f"#case={NAMES[0]}"]]
    runs = shown.page.locator("a[href^='http']").evaluate_all("(all) => all.map((a) => a.href)")
    assert f"http://127.0.0.1:5000/#/runs/{study.trials[0].run_id}" in runs
    assert f"http://127.0.0.1:5000/#/runs/{study.parent_run_id}" in runs
    targets = shown.page.locator(".contents a").evaluate_all(
        "(all) => all.map((a) => !!document.getElementById(a.hash.slice(1)))"
    )
    assert len(targets) > 8 and all(targets)


def test_the_last_sheet_of_the_print_is_not_a_line(folder, opened):
    shown = opened(folder / "report.html")
    sheets = sheets_of(shown.page.pdf(prefer_css_page_size=True))
    assert len(sheets) > 3 and sheets[-1] >= 4, sheets


def sheets_of(pdf):
    """How many pieces of text are drawn on each sheet of a PDF of Chromium's."""
    objects = dict(re.findall(rb"(\d+) 0 obj\s*(.*?)\s*endobj", pdf, re.DOTALL))
    kids = re.findall(rb"/Kids\s*\[(.*?)\]", pdf, re.DOTALL)
    order = [number for kid in kids for number in re.findall(rb"(\d+) 0 R", kid)]
    counts = []
    for number in order:
        contents = re.search(rb"/Contents (\d+) 0 R", objects[number])
        if contents:
            stream = objects[contents[1]].partition(b"stream")[2].strip(b"\r\n")
            drawn = zlib.decompressobj().decompress(stream)
            counts.append(len(re.findall(rb"\bTj|TJ\b", drawn)))
    return counts


def test_hostile_names_show_as_themselves_in_markdown(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    cells = [
        "".join(child.content for child in token.children)
        for before, token in itertools.pairwise(tokens)
        if before.type == "td_open"
    ]
    plain = [cell.removesuffix(" (baseline)") for cell in cells]
    for name in NAMES:
        assert plain.count(name) >= 3, name
    assert not [
        token for token in tokens if token.type == "html_block" and "script" in token.content
    ]


def test_hostile_names_show_as_themselves_on_the_terminal(study):
    console = Console(width=160, record=True, file=io.StringIO())
    render_terminal(study, console)
    shown = console.export_text()
    assert all(name in shown for name in NAMES)


def live(refresh_s, sentence):
    return Live(
        state="Running", sentence=sentence, written="now", ended=1, total=4, refresh_s=refresh_s
    )


def test_the_live_page_loads_itself_again_until_the_study_ends(tmp_path, opened):
    study = synthetic_study(seeds=2, cases=6, epochs=2)
    page = write_live_page(study, tmp_path, live(1, "1 of 4 trials"))
    shown = opened(page)
    assert "Provisional" in shown.page.text_content(".answer") and "so far" in (
        shown.page.text_content("header")
    )
    assert shown.page.locator("progress").get_attribute("value") == "1"
    assert not shown.page.locator("a[href^='plots/']").count(), "nothing that is not there"
    write_live_page(study, tmp_path, live(1, "2 of 4 trials"))
    shown.page.wait_for_function("document.body.textContent.includes('2 of 4')", timeout=20_000)
    write_report(study, tmp_path)
    shown.page.wait_for_function("!document.getElementById('live')", timeout=20_000)
    assert "Provisional" not in shown.page.text_content("body")
    assert not shown.page.locator("meta[http-equiv=refresh]").count()
    loaded = len(shown.requests)
    shown.page.wait_for_timeout(1500)
    assert len(shown.requests) == loaded, "it is not loaded again"
    shown.assert_silent_and_alone()


def test_a_study_that_broke_off_does_not_load_its_page_again(tmp_path):
    study = synthetic_study(seeds=1, cases=3, epochs=1)
    page = write_live_page(study, tmp_path, live(0, "1 of 4 trials")).read_text(encoding="utf-8")
    assert "http-equiv" not in page and 'id="live"' in page


def test_a_trial_that_still_waits_is_no_fault_on_the_page_of_a_running_study(tmp_path):
    study = synthetic_study(seeds=1, cases=3, epochs=1)
    waiting = dataclasses.replace(study.trials[0], status="NOT STARTED", reason="never started")
    study = dataclasses.replace(study, trials=(waiting, *study.trials[1:]))
    page = write_live_page(study, tmp_path, live(1, "1 of 4 trials")).read_text(encoding="utf-8")
    assert "not started" in page and "never started" not in page
    assert "never started" in write_report(study, tmp_path).read_text(encoding="utf-8")


def test_a_study_of_one_arm_has_no_empty_table_of_differences(tmp_path):
    study = synthetic_study({"depth 0": 0.0, "depth 4": 0.01}, seeds=1, cases=3, epochs=1)
    baseline = study.baseline
    trials = tuple(trial for trial in study.trials if trial.arm == baseline)
    claim = study.hypothesis.within([baseline])
    arms = {baseline: study.arms[baseline]}
    study = dataclasses.replace(study, arms=arms, trials=trials, hypothesis=claim)
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    assert "No two arms to compare." in page and "p (Holm)" not in page
