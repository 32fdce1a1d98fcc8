"""What the rows of an evaluation come to."""

import numpy as np

from segmamba.data.case import patient_of
from segmamba.data.labels import REGIONS
from segmamba.evaluation.intervals import mean_interval
from segmamba.evaluation.score import METRICS
from segmamba.screen import points, print_line

MEAN = "mean"


def summarise(rows):
    """{"scores": {rule: {region or "mean": {metric: {"mean", "median", "sd", "low", "high"}}}}, "empty": {region: {...}}}.

    "mean" is each case's mean over the regions. low and high: 95 % bootstrap interval of the mean over cases, None for fewer than two
    patients. empty: how many cases lack the region, and in how many of those it was predicted all the same.
    """
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    scores = {
        rule: {
            region: {
                metric: _figures(case_values(rows, rule, region, metric)) for metric in METRICS
            }
            for region in (*REGIONS, MEAN)
        }
        for rule in rules
    }
    empty = {}
    for region in REGIONS:
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


def case_values(rows, rule, region, metric):
    """{case: value}; for the region "mean", the mean of the case's three."""
    by_case = {}
    for row in rows:
        if row["rule"] == rule and region in (row["region"], MEAN):
            by_case.setdefault(row["case"], []).append(row[metric])
    return {case: float(np.mean(values)) for case, values in by_case.items()}


def _figures(by_case):
    values = np.array(list(by_case.values()))
    low, high = mean_interval(values, [patient_of(case) for case in by_case])
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "sd": sd,
        "low": low,
        "high": high,
    }


def render(evaluation, console):
    """A table for each rule, then the counts and notes that belong to them."""
    from rich.table import Table

    about, summary = evaluation.about, evaluation.summary
    for rule, regions in summary["scores"].items():
        challenge = (
            f", challenge {about['challenge']['name']}" if rule.startswith("lesionwise") else ""
        )
        table = Table(
            "region",
            "Dice",
            "95 %",
            "median",
            "sd",
            "HD95 mm",
            "95 %",
            "median",
            "sensitivity",
            "specificity",
            box=None,
        )
        table.title = f"rule: {rule}{challenge}, {about['cases']} cases"
        for region, metrics in regions.items():
            dice, hd95_mm = metrics["dice"], metrics["hd95_mm"]
            table.add_row(
                region,
                points(dice["mean"], decimals=2),
                _points_interval(dice),
                points(dice["median"], decimals=2),
                "-" if dice["sd"] is None else points(dice["sd"]),
                f"{hd95_mm['mean']:.2f}",
                _interval(hd95_mm, "{:.1f}"),
                f"{hd95_mm['median']:.2f}",
                f"{metrics['sensitivity']['mean']:.3f}",
                f"{metrics['specificity']['mean']:.5f}",
            )
        console.print(table)
    for rule, words in about["rules"].items():
        print_line(console, f"{rule}: {words}")
    for region, count in summary["empty"].items():
        if count["cases"]:
            print_line(
                console,
                f"note     {count['cases']} cases without {region}; in {count['predicted']} of them it was predicted",
            )
    for note in about["notes"]:
        print_line(console, f"note     {note}")


def _interval(figures, form):
    return (
        "-"
        if figures["low"] is None
        else f"{form.format(figures['low'])}-{form.format(figures['high'])}"
    )


def _points_interval(figures):
    return "-" if figures["low"] is None else f"{points(figures['low'])}-{points(figures['high'])}"
