"""Two folders of predictions of the same cases: which of these two models is better, and why that says little about the methods.

The interval is over patients alone. It holds for other patients and these two models; a second training run of either method might
turn the answer round, and nothing in two folders shows by how much runs scatter. docs/statistics.md has the figures.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.data.case import patient_of
from segmamba.data.labels import REGIONS
from segmamba.errors import UserError
from segmamba.evaluation.evaluate import as_csv, evaluate
from segmamba.evaluation.intervals import paired_interval
from segmamba.evaluation.summary import MEAN, case_values
from segmamba.files import write_json, write_text
from segmamba.screen import print_line

METRICS = ("dice", "hd95_mm")
MARGIN = 0.005
COLUMNS = ("case", "region", "rule", "metric", "a", "b", "difference")
CAVEAT = "About the methods behind these two models it is undecided: with one training run each, nothing shows how much training itself varies."


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A minus B of one metric on one region under one rule."""

    rule: str
    region: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    """Mean over patients, each patient's cases averaged first."""
    low: float | None
    high: float | None
    """95 % t interval over patients; None for fewer than two."""
    higher: int
    lower: int
    """Cases in which A has the higher, or the lower, value; the others tie."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found."""

    about: dict
    paired: tuple
    rows: list
    """A dict of COLUMNS for each case, region, rule and metric."""
    verdicts: dict
    """Rule to a sentence in plain words, on the mean Dice of the regions; CAVEAT belongs to each."""


def compare(a, b, truth, *, margin=MARGIN, labels_a, labels_b, **options):
    """The Comparison of two folders; options are those of `evaluate`, labels_a and labels_b its prediction_labels.

    margin: the smallest difference of Dice (0 to 1) that matters.
    """
    sides = [
        evaluate(folder, truth, prediction_labels=labels, **options)
        for folder, labels in ((a, labels_a), (b, labels_b))
    ]
    shared = {row["case"] for row in sides[0].rows} & {row["case"] for row in sides[1].rows}
    if not shared:
        raise UserError(f"{a} and {b} have no case in common; give predictions of the same cases")
    told = [side.about["notes"] for side in sides]
    notes = [note for note in told[0] if note in told[1]]
    notes += [
        f"{name}: {note}"
        for name, mine in zip("AB", told, strict=True)
        for note in mine
        if note not in notes
    ]
    only = [{row["case"] for row in side.rows} - shared for side in sides]
    if any(only):  # with --missing skip
        notes.append(
            f"compared are the {len(shared)} cases that both have; {len(only[0])} are only in {a}, {len(only[1])} only in {b}"
        )
    rules = tuple(sides[0].about["rules"])
    paired, rows = [], []
    for rule in rules:
        for region in (*REGIONS, MEAN):
            for metric in METRICS:
                values = [case_values(side.rows, rule, region, metric) for side in sides]
                cases = [case for case in values[0] if case in shared]
                paired.append(
                    _paired(
                        rule,
                        region,
                        metric,
                        *({case: side[case] for case in cases} for side in values),
                    )
                )
                rows += [
                    _row(case, region, rule, metric, values[0][case], values[1][case])
                    for case in cases
                ]
    about = sides[0].about | {"a": str(a), "b": str(b), "cases": len(shared), "notes": notes}
    del about["predictions"]
    decisive = {one.rule: one for one in paired if (one.region, one.metric) == (MEAN, "dice")}
    return Comparison(
        about=about,
        paired=tuple(paired),
        rows=rows,
        verdicts={r: _verdict(decisive[r], about, margin) for r in rules},
    )


def _row(case, region, rule, metric, a, b):
    return dict(zip(COLUMNS, (case, region, rule, metric, a, b, a - b), strict=True))


def _paired(rule, region, metric, a, b):
    differences = np.array([a[case] - b[case] for case in a])
    mean, low, high = paired_interval(differences, [patient_of(case) for case in a])
    return Paired(
        rule=rule,
        region=region,
        metric=metric,
        mean_a=float(np.mean(list(a.values()))),
        mean_b=float(np.mean(list(b.values()))),
        difference=mean,
        low=low,
        high=high,
        higher=int((differences > 0).sum()),
        lower=int((differences < 0).sum()),
    )


def _verdict(found, about, margin):
    """What the mean Dice says about these two models."""
    size = f"{100 * abs(found.difference):.1f}"
    estimate = f"A ({about['a']}) scores {size} Dice points {'above' if found.difference >= 0 else 'below'} B ({about['b']})"
    if found.low is None:
        return f"Undecided: {estimate}, but one patient says nothing about others."
    measured = f"{estimate} on mean Dice (95 % interval {_points(found.low)} to {_points(found.high)}, {about['cases']} cases)"
    if -margin < found.low and found.high < margin:
        return f"Equivalent: {measured}; the whole interval lies within \N{PLUS-MINUS SIGN}{100 * margin:.1f} points that matter."
    if found.low > 0 or found.high < 0:
        return f"{'A' if found.low > 0 else 'B'} is the better model: {measured}; the interval excludes 0."
    return f"Undecided: {measured}; the interval holds 0 and differences that matter."


def _points(dice):
    return f"{100 * dice:+.1f}".replace("-", "\N{MINUS SIGN}")


def write_comparison(folder, found):
    """differences.csv and comparison.json in `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_text(folder / "differences.csv", as_csv(found.rows, COLUMNS)),
        write_json(folder / "comparison.json", as_json(found) | {"rows": found.rows}),
    ]


def as_json(found):
    return found.about | {
        "verdicts": found.verdicts,
        "caveat": CAVEAT,
        "paired": [vars(one) for one in found.paired],
    }


def render(found, console):
    """A table for each rule, then the verdicts and notes."""
    from rich.table import Table

    for rule in found.about["rules"]:
        table = Table(
            "region", "metric", "A", "B", "A - B", "95 % interval", "A higher", "A lower", box=None
        )
        table.title = f"rule: {rule}, {found.about['cases']} cases"
        for one in (one for one in found.paired if one.rule == rule):
            scale = 100 if one.metric == "dice" else 1  # Dice in points, HD95 in mm
            interval = (
                "-" if one.low is None else f"{scale * one.low:.2f} to {scale * one.high:.2f}"
            )
            name = {"dice": "Dice", "hd95_mm": "HD95 mm"}[one.metric]
            values = (f"{scale * v:.2f}" for v in (one.mean_a, one.mean_b, one.difference))
            table.add_row(one.region, name, *values, interval, str(one.higher), str(one.lower))
        console.print(table)
    verdicts = [f"{rule}: {words}" for rule, words in found.verdicts.items()]
    for text in (*verdicts, CAVEAT, *(f"note     {note}" for note in found.about["notes"])):
        print_line(console, text)
