"""The tables beside a report: CSV that programs read, LaTeX that papers take."""

import csv
import dataclasses
import re
import shutil
import subprocess

import pytest

from segmamba.reports.exports import TABLE_FILES, write_tables
from segmamba.reports.latex import booktabs, escaped, needs_unicode
from segmamba.reports.report import write_report
from segmamba.reports.tables import arm_table, result_table
from segmamba.studies.comparisons import compare_arms
from tests.studies.synthetic import synthetic_study

HOSTILE = {
    "a_1 & 50% {x} $y$ #2 ~z ^2 \\end{tabular}": 0.0,
    '[b] \N{GREEK SMALL LETTER ALPHA}\N{MULTIPLICATION SIGN}2, "quoted" `--\' <d|e>': 0.02,
    "* starts \N{MINUS SIGN}1 \N{LATIN SMALL LETTER U WITH DIAERESIS}": 0.03,
}


@pytest.fixture(scope="module")
def study():
    made = synthetic_study(HOSTILE, seeds=4, cases=12, epochs=1)
    return dataclasses.replace(made, command="x\ny")


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    made = tmp_path_factory.mktemp("report")
    write_report(study, made)
    return made


def rows_of(folder, name):
    with (folder / "tables" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_links_every_table_that_it_wrote(folder):
    for page, link in (("report.html", '<a href="tables/{0}">'), ("report.md", "(tables/{0})")):
        text = (folder / page).read_text()
        assert all(link.format(name) in text for name in TABLE_FILES)
    assert sorted(path.name for path in (folder / "tables").iterdir()) == sorted(TABLE_FILES)


def test_arms_csv_has_the_numbers_of_the_result_table_in_full(study, folder):
    rows = rows_of(folder, "arms.csv")
    assert [row["arm"] for row in rows] == list(HOSTILE)
    for row, result in zip(rows, result_table(study), strict=True):
        for region in ("mean", "ET", "TC", "WT"):
            score = result[f"dice_{region}"]
            for name, column in (("mean", "mean"), ("sd over seeds", "sd"), ("low", "low")):
                cell = row[f"{region} Dice {name} (Dice points)"]
                assert float(cell) == 100 * score[column]
        assert row["interval level"] == "0.95" and row["seeds finished"] == "4"
    _, cells = arm_table(study)
    marked = [["no", "yes"][strong] for row in cells for _, strong in row[1:5]]
    titles = [f"{region} Dice not shown worse" for region in ("mean", "ET", "TC", "WT")]
    assert [row[title] for row in rows for title in titles] == marked


def test_differences_csv_has_every_contrast_on_every_region_with_p_where_it_decides(study, folder):
    rows, results = rows_of(folder, "differences.csv"), compare_arms(study)
    assert len(rows) == 4 * len(results)
    by_name = {(row["arm"], row["region"]): row for row in rows}
    for result in results:
        for region, difference in result.regions.items():
            row = by_name[result.arm, region]
            assert float(row["difference (Dice points)"]) == 100 * difference.mean
            assert float(row["low (Dice points)"]) == 100 * difference.low
            assert float(row["interval level"]) == difference.level
            assert (row["seeds"], row["patients"]) == ("4", "12")
            p = [row[name] for name in ("p", "p Holm", "p ranks")]
            if region == "WT":
                expected = (difference.p_value, result.p_holm, difference.rank_p)
                assert tuple(map(float, p)) == expected
            else:
                assert p == ["", "", ""]
    assert [row["arm"] for row in rows if row["decides"] == "yes"] == [list(HOSTILE)[2]]


def test_hd95_is_in_mm_and_what_has_no_interval_is_empty(tmp_path):
    one = synthetic_study({"a": 0.0, "b": 0.01}, seeds=1, cases=3, epochs=1, metric="hd95")
    write_tables(one, tmp_path / "tables")
    row = rows_of(tmp_path, "differences.csv")[0]
    assert {"difference (mm)", "low (mm)"} <= row.keys() and row["difference (mm)"] == ""
    assert row["interval level"] == "" and row["p"] == ""
    (arm, _) = rows_of(tmp_path, "arms.csv")
    assert arm["WT Dice low (Dice points)"] == "" and arm["WT Dice mean (Dice points)"]


def unescaped(latex):
    """What is left of LaTeX without escapes, commands, alignment and mathematics."""
    left = re.sub(r"\\[&%_#${}]", "", latex)
    left = re.sub(r"\$(-|\\[A-Za-z]+|p)\$", "", left)
    return re.sub(r"\\[A-Za-z]+", "", left)


@pytest.mark.parametrize("name", ["arms.tex", "differences.tex"])
def test_latex_has_as_many_cells_in_each_row_and_nothing_unescaped(folder, name):
    lines = (folder / "tables" / name).read_text().splitlines()
    comments = [line for line in lines if line.startswith("%")]
    assert "% study ablate_depth_Run01" in comments
    assert "% segmamba report ablate_depth_Run01" in comments
    body = [line for line in lines if not line.startswith("%")]
    rows = [line for line in body if line.endswith(r" \\")]
    begin = next(line for line in body if line.startswith(r"\begin{tabular}"))
    columns = len(re.search(r"\{(l?r*)\}$", begin)[1])
    assert len(rows) > len(HOSTILE)
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == columns - 1
        assert not re.match(r"\s*[\[*]", row), "it would be an argument of the line break before"
    left = unescaped("\n".join(body))
    assert left.count("{") == left.count("}")
    assert not set(left.replace(" & ", "").replace(r" \\", "")) & set("%_#$^~<>|")


def test_latex_shows_the_bold_and_the_intervals_of_the_report(study, folder):
    text = (folder / "tables" / "arms.tex").read_text()
    _, rows = arm_table(study)
    for row in rows:
        for cell, strong in row:
            assert (rf"\textbf{{{escaped(cell)}}}" if strong else escaped(cell)) in text
    score = result_table(study)[1]["dice_WT"]
    assert f"[{100 * score['low']:.1f}, {100 * score['high']:.1f}]" in text
    differences = (folder / "tables" / "differences.tex").read_text()
    deciding = next(result for result in compare_arms(study) if result.decides)
    assert rf"\textbf{{{escaped(deciding.label)}}}" in differences


def test_text_that_latex_would_change_stays_as_it_is():
    assert escaped("100%_&") == r"100\%\_\&"
    assert escaped("a--b") == "a-{}-b" and escaped("a-b") == "a-b"
    assert escaped("\N{MINUS SIGN}0.5 \N{PLUS-MINUS SIGN} 1") == r"$-$0.5 $\pm$ 1"
    assert escaped("\N{GREEK CAPITAL LETTER DELTA}\N{GREEK SMALL LETTER LAMDA}") == (
        r"$\Delta$$\lambda$"
    )
    assert r"{}[a] \\" in booktabs(["x"], [["[a]"]], comments=[])
    assert escaped("") == ""
    snow = "\N{SNOWMAN}"
    assert escaped(snow) == snow and needs_unicode(snow) and not needs_unicode("\xfc")
    assert "LuaLaTeX" in booktabs(["a"], [[snow]], comments=["two\nlines"])
    assert "% two lines" in booktabs(["a"], [["b"]], comments=["two\nlines"])


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles(folder, tmp_path):
    inputs = "\n\n".join(
        rf"\input{{{folder / 'tables' / name}}}" for name in TABLE_FILES if name.endswith(".tex")
    )
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
        f"\\begin{{document}}{inputs}\\end{{document}}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
