"""A report's tables for papers and programs: CSV with one number a cell, LaTeX as one prints it.

Both are made of the rows that the report itself shows (tables.py, difference_rows.py). CSV has full
precision and the units in its headers; LaTeX has the report's digits and bold.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.files import write_text
from segmamba.reports.difference_rows import difference_rows
from segmamba.reports.latex import booktabs, escaped
from segmamba.reports.tables import (
    FURTHER_COLUMNS,
    Cell,
    Column,
    arm_table,
    decisive_first,
    dice_columns,
    result_table,
)
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study

TABLE_FILES = ("arms.csv", "arms.tex", "differences.csv", "differences.tex")
"""What `write_tables` writes."""
Row: TypeAlias = Mapping[str, Any]
Value: TypeAlias = str | float | None
PERCENT = f"{100 * CONFIDENCE_LEVEL:.0f} \\%"


def write_tables(study: Study, folder: Path) -> None:
    """Write TABLE_FILES, each whole or not at all.

    Args:
        study: The study.
        folder: The folder that they are written into; it is created where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arms, differences = result_table(study), difference_rows(study)
    texts = {
        "arms.csv": arms_csv(study, arms),
        "arms.tex": arms_latex(study, arms),
        "differences.csv": differences_csv(study, differences),
        "differences.tex": differences_latex(study, differences),
    }
    for name in TABLE_FILES:
        write_text(folder / name, texts[name])


def arms_csv(study: Study, table: Sequence[Row]) -> str:
    """The arms' table as CSV.

    Args:
        study: The study.
        table: Its `result_table`.

    Returns:
        The text: a row for each arm, with mean, standard deviation over seeds and interval of every
        score that was measured.
    """
    columns = _measured(study, table)
    _, cells = arm_table(study, table)
    rows: list[dict[str, Value]] = []
    for row, texts in zip(table, cells, strict=True):
        made: dict[str, Value] = {"arm": row["arm"], "baseline": _yes(row["baseline"])}
        for column, (_, strong) in zip(columns, texts[1:], strict=False):
            score = row[column.name]
            title, unit = _title(column), _unit(column)
            for name in ("mean", "sd", "low", "high"):
                value = score[name]
                what = "sd over seeds" if name == "sd" else name
                made[f"{title} {what} ({unit})"] = value if value is None else column.scale * value
            made[f"{title} seeds"] = score["seeds"]
            made[f"{title} not shown worse"] = _yes(strong)
        made |= {
            "interval level": CONFIDENCE_LEVEL,
            "parameters": row["parameters"],
            "training (s)": row["train_s"],
            "seeds finished": row["seeds_finished"],
            "seeds planned": row["seeds_planned"],
        }
        rows.append(made)
    return _csv(rows)


def differences_csv(study: Study, rows: Sequence[Row]) -> str:
    """The paired differences as CSV.

    Args:
        study: The study.
        rows: Its `difference_rows`.

    Returns:
        The text: a row for each contrast on each region. p-values stand with the region that
        decides; the other regions are descriptive and have none.
    """
    decides, metric = study.hypothesis.regions[0], METRICS[study.hypothesis.metric]
    unit, lines = metric.unit, []
    for row in rows:
        for region in decisive_first(study, decides):
            d, deciding = row["regions"][region], region == decides
            numbers = {
                "difference": d.mean,
                "low": d.low,
                "high": d.high,
                "standard error": d.standard_error,
                "sd over seeds": d.seed_sd,
                "sd over patients": d.patient_sd,
            }
            made: dict[str, Value] = {
                "arm": row["arm"],
                "versus": row["versus"],
                "region": region,
                "metric": metric.words,
                "decides": _yes(deciding and row["decides"]),
            }
            made |= {f"{name} ({unit})": metric.scale * value for name, value in numbers.items()}
            made |= {
                "interval level": d.level if math.isfinite(d.low) else None,
                "p": d.p_value if deciding else None,
                "p Holm": row["p_adjusted"] if deciding else None,
                "p ranks": d.rank_p if deciding else None,
                "seeds": len(d.seeds),
                "patients": len(d.patients),
            }
            lines.append(made)
    return _csv(lines)


def arms_latex(study: Study, table: Sequence[Row]) -> str:
    """The arms' table as LaTeX: the report's cells, and below each score its interval.

    Args:
        study: The study.
        table: Its `result_table`.

    Returns:
        The text of a file for \\input.
    """
    columns = _measured(study, table)
    headers, cells = arm_table(study, table)
    rows = []
    for row, texts in zip(table, cells, strict=True):
        rows.append([_cell(cell) for cell in texts])
        intervals = [_interval(row[column.name], column) for column in columns]
        if any(intervals):
            blank = [""] * (len(headers) - 1 - len(columns))
            rows.append(["", *intervals, *blank])
    note = (
        rf"Mean $\pm$ standard deviation over seeds; below it the {PERCENT} interval over seeds "
        r"and patients. Dice in points. Bold: not shown to be worse than the best of the column."
    )
    return booktabs(
        [escaped(header) for header in headers], rows, comments=_comments(study), notes=note
    )


def differences_latex(study: Study, rows: Sequence[Row]) -> str:
    """The paired differences as LaTeX: the report's cells, and below each estimate its interval.

    Args:
        study: The study.
        rows: Its `difference_rows`.

    Returns:
        The text of a file for \\input.
    """
    decides, metric = study.hypothesis.regions[0], METRICS[study.hypothesis.metric]
    regions = decisive_first(study, decides)
    lines = []
    for row in rows:
        name = escaped(row["contrast"])
        estimates = [escaped(estimate) for estimate, _ in row["cells"]]
        ends = [escaped(row[name]) for name in ("p", "p_holm")]
        counts = [str(row["seeds"]), str(row["patients"])]
        lines.append(
            [rf"\textbf{{{name}}}" if row["decides"] else name, *estimates, *ends, *counts]
        )
        intervals = [escaped(interval) for _, interval in row["cells"]]
        if any(intervals):
            level = f" at {escaped(row['level'])}" if row["level"] else ""
            first, *others = intervals
            lines.append(["", f"{first}{level}", *others, "", "", "", ""])
    falls = "" if metric.higher_is_better else ", positive where it falls"
    note = (
        f"Paired differences in {escaped(metric.unit)}{falls}, with {PERCENT} intervals over seeds "
        f"and patients unless another level is given. $p$: {escaped(decides)}, two-sided; Holm: "
        "adjusted. Bold: the contrasts that answer the question."
    )
    headers = [
        "difference",
        *(f"{escaped(region)} (decides)" if region == decides else region for region in regions),
        "$p$",
        "$p$ (Holm)",
        "seeds",
        "patients",
    ]
    return booktabs(headers, lines, comments=_comments(study), notes=note)


def _measured(study: Study, table: Sequence[Row]) -> list[Column]:
    """The columns of scores that the arms' table shows."""
    further = [c for c in FURTHER_COLUMNS if any(row[c.name]["seeds"] for row in table)]
    return [*dice_columns(study), *further]


def _title(column: Column) -> str:
    """A column's name without its unit."""
    if column.name.startswith("dice_"):
        return f"{column.name.removeprefix('dice_')} Dice"
    return "last checkpoint mean Dice" if column.name.startswith("last") else _without_unit(column)


def _without_unit(column: Column) -> str:
    return column.title.removesuffix(" (mm)")


def _unit(column: Column) -> str:
    if column.scale == 1:
        return "mm"
    return "NSD points" if column.name.startswith("nsd") else "Dice points"


def _interval(score: Row, column: Column) -> str:
    """The ends of a score's interval as LaTeX; empty where it has none."""
    if score["low"] is None:
        return ""
    ends = (f"{column.scale * score[end]:.1f}" for end in ("low", "high"))
    return escaped(f"[{', '.join(ends)}]")


def _cell(cell: Cell) -> str:
    text, strong = cell
    return rf"\textbf{{{escaped(text)}}}" if strong else escaped(text)


def _comments(study: Study) -> list[str]:
    """Which study a table is of, and how to make it again; no date, so that it stays the same."""
    again = study.command if study.pooled_from else f"segmamba report {study.name}"
    return [f"study {study.name}", again]


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """Rows as CSV; what was not measured is empty."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _plain(value) for name, value in row.items()})
    return text.getvalue()


def _plain(value: Value) -> Value:
    missing = isinstance(value, float) and not math.isfinite(value)
    return None if missing else value
