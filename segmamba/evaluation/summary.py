"""What the rows of an evaluation come to: figures per rule, region and metric, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segmamba.data.label_sets import MEAN
from segmamba.evaluation.intervals import score_interval
from segmamba.evaluation.patients import by_patient, counted, row_patient
from segmamba.evaluation.rules import LESION_MISSED_MM
from segmamba.evaluation.score import METRICS, ScoreRow
from segmamba.screen import points, print_line

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.evaluation.result import Evaluation

REGION = "region"
SPARE = ("specificity", "sensitivity", "sd", "NSD 1 mm", "median mm")
"""Columns that a narrow terminal does without, in this order."""

Figures = dict[str, float | None]
"""{"mean", "median", "sd", "low", "high"} of a score over patients, each patient's cases averaged
first."""


def summarise(rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Summarise scores over patients.

    Args:
        rows: The rows of all cases, as `score_case` gives them.

    Returns:
        {"scores": {rule: {region or "mean": {metric: Figures}}}, "empty": {region: counts}}. "mean"
        is each case's mean over the regions. low and high are the 95 % bootstrap-t interval of the
        mean over patients, None for fewer than two. "empty" counts the "cases" that lack the
        region, and those of them in which it was "predicted" all the same.
    """
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    regions = regions_of(rows)
    patients = {row["case"]: row_patient(row) for row in rows}
    scores = {
        rule: {
            region: {
                metric: _figures(
                    by_patient(case_values(rows, rule, region, metric), patients), metric
                )
                for metric in METRICS
            }
            for region in (*regions, MEAN)
        }
        for rule in rules
    }
    empty = {}
    for region in regions:
        without = [
            row
            for row in rows
            if row["rule"] == rules[0] and row["region"] == region and row["volume_ml"] == 0
        ]
        empty[region] = {
            "cases": len(without),
            "predicted": sum(row["predicted_ml"] > 0 for row in without),
        }
    return {"scores": scores, "empty": empty}


def regions_of(rows: Iterable[ScoreRow]) -> tuple[str, ...]:
    """Return the regions that rows are about, in their order."""
    return tuple(dict.fromkeys(row["region"] for row in rows))


def case_values(rows: Sequence[ScoreRow], rule: str, region: str, metric: str) -> dict[str, float]:
    """Return {case: value} of one metric; for the region "mean", the mean of the case's regions."""
    by_case: dict[str, list[float]] = {}
    for row in rows:
        if row["rule"] == rule and region in (row["region"], MEAN):
            by_case.setdefault(row["case"], []).append(row[metric])
    return {case: float(np.mean(values)) for case, values in by_case.items()}


def patient_values(
    rows: Sequence[ScoreRow], rule: str, region: str, metric: str
) -> dict[str, float]:
    """Return {patient: value} of one metric: `case_values` with a patient's cases averaged."""
    patients = {row["case"]: row_patient(row) for row in rows}
    return by_patient(case_values(rows, rule, region, metric), patients)


def _figures(of_patient: dict[str, float], metric: str) -> Figures:
    values = np.array(list(of_patient.values()))
    # Farther than a missed lesion is no mean distance, unless a larger grid has shown one.
    most = max(LESION_MISSED_MM, float(values.max())) if metric == "hd95_mm" else 1
    low, high = score_interval(values, (0, most))
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "sd": sd,
        "low": low,
        "high": high,
    }


def render(evaluation: Evaluation, console: Console) -> None:
    """Print a table for each rule, then the counts and notes that belong to them."""
    about, summary = evaluation.about, evaluation.summary
    for rule, regions in summary["scores"].items():
        challenge = (
            f", challenge {about['challenge']['name']}" if rule.startswith("lesionwise") else ""
        )
        title = f"rule: {rule}{challenge}, {_size(evaluation)}"
        _print_table(title, regions, console)
    for rule, words in about["rules"].items():
        print_line(console, f"{rule}: {words}")
    for region, count in summary["empty"].items():
        if count["cases"]:
            print_line(
                console,
                f"note     {count['cases']} cases without {region}; "
                f"in {count['predicted']} of them it was predicted",
            )
    for note in about["notes"]:
        print_line(console, f"note     {note}")


def _print_table(title: str, regions: dict[str, dict[str, Any]], console: Console) -> None:
    """Print the figures of one rule, a row for each region, in the columns that fit."""
    from rich.table import Table

    rows = _fitting([_cells(region, metrics) for region, metrics in regions.items()], console.width)
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.title = title
    for name in rows[0]:
        table.add_column(name, justify="left" if name == REGION else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _cells(region: str, metrics: dict[str, Any]) -> dict[str, str]:
    """A row of the table by the titles of its columns."""
    dice, hd95_mm = metrics["dice"], metrics["hd95_mm"]
    return {
        REGION: region,
        "Dice": points(dice["mean"], decimals=2),
        "95 %": _interval(dice, scale=100),
        "median": points(dice["median"], decimals=2),
        "sd": "-" if dice["sd"] is None else points(dice["sd"]),
        "HD95 mm": f"{hd95_mm['mean']:.2f}",
        "95 % mm": _interval(hd95_mm),
        "median mm": f"{hd95_mm['median']:.2f}",
        "NSD 1 mm": points(metrics["nsd_1mm"]["mean"]),
        "sensitivity": f"{metrics['sensitivity']['mean']:.3f}",
        "specificity": f"{metrics['specificity']['mean']:.5f}",
    }


def _fitting(rows: list[dict[str, str]], width: int) -> list[dict[str, str]]:
    """The rows without the SPARE columns that do not fit; the files and the page have them all."""
    for spare in (None, *SPARE):
        rows = [{name: text for name, text in row.items() if name != spare} for row in rows]
        texts = ([name, *(row[name] for row in rows)] for name in rows[0])
        if sum(1 + max(map(len, column)) for column in texts) - 1 <= width:
            break
    return rows


def _size(evaluation: Evaluation) -> str:
    """The cases and patients in words."""
    rows = evaluation.rows
    return counted((row["case"] for row in rows), map(row_patient, rows))


def _interval(figures: Figures, *, scale: float = 1) -> str:
    if figures["low"] is None or figures["high"] is None:
        return "-"
    return f"{scale * figures['low']:.1f}-{scale * figures['high']:.1f}"
