"""Tables fold where they do not fit: the classes and titles that the style sheet needs."""

import re

import pytest

from segmamba.reports.page_tables import PRINTED, SHEET_PX, STEPS_PX, fit_tables


def table(columns, text="0.123", heads=None, classes=""):
    heads = heads or [f"column {number}" for number in range(columns)]
    head = "".join(f"<th>{title}</th>" for title in heads)
    cells = "".join(f'<td class="number">{text}</td>' for _ in range(columns))
    return (
        f'<table class="{classes}"><thead><tr>{head}</tr></thead>'
        f"<tbody><tr>{cells}</tr><tr>{cells}</tr></tbody></table>"
    )


def classes(page):
    return re.search(r'<table(?: class="([^"]*)")?[^>]*>', page)[1] or ""


@pytest.mark.parametrize("columns", [1, 3, 5, 7, 9, 12, 14, 30])
def test_the_more_columns_the_wider_the_window_that_a_table_needs(columns):
    found = classes(fit_tables(table(columns)))
    needed = columns * (6 * 9.2 + 14.4)
    fitting = [step for step in STEPS_PX if needed <= step]
    if not fitting:
        assert "fold-always" in found
    elif fitting[0] == STEPS_PX[0]:
        assert "fold-" not in found.replace("fold-print", "")
    else:
        assert f"fold-{fitting[0]}" in found
    assert ("fold-print" in found) == (PRINTED * needed > SHEET_PX)


def test_cells_get_the_title_of_their_column_and_everything_else_stays():
    heads = ["arm", "p &lt; 0.05 &amp; so", '"x"']
    before = f"<p>a &lt; b</p><svg><clipPath/></svg>{table(3, 'a&amp;b<br>&#39;c', heads)}<pre>&"
    after = fit_tables(before)
    assert re.findall(r'data-name="([^"]*)"', after)[:3] == [
        "arm",
        "p &lt; 0.05 &amp; so",
        "&quot;x&quot;",
    ]
    assert ' style="--first: 3ch"' in after, "the longest word of the first column"
    plain = re.sub(r' data-name="[^"]*"| style="[^"]*"| class="(?!number)[^"]*"', "", after)
    assert plain == re.sub(r' class="(?!number)[^"]*"', "", before)


def test_lines_of_numbers_are_whole_and_words_are_broken():
    long = "behind an arm whose name has very many words"
    words = fit_tables(table(1, f'1.0<br><span class="interval words">{long}</span>'))
    whole = fit_tables(table(1, f'1.0<br><span class="interval">{long}</span>'))
    assert "fold-" not in classes(words) and "fold-540" in classes(whole)


def test_a_table_without_titles_is_left_alone():
    plain = '<table class="dense"><tr><td>python</td><td>3.11</td></tr></table>'
    assert fit_tables(plain) == plain
