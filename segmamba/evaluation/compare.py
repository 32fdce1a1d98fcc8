"""Two folders of predictions of the same cases: which of these two models is better.

The interval is over patients alone. It holds for other patients and these two models. A second
training run of either method might reverse the answer, and nothing in two folders shows by how much
runs scatter. docs/explanation/statistics.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmamba.config import DICE_MARGIN
from segmamba.data.label_sets import GLIOMA, MEAN
from segmamba.errors import UserError
from segmamba.evaluation.evaluate import as_csv, evaluate
from segmamba.evaluation.intervals import FEW_PATIENTS, patient_interval, rank_p
from segmamba.evaluation.patients import by_patient, counted, row_patient
from segmamba.evaluation.result import Evaluation
from segmamba.evaluation.summary import case_values, regions_of
from segmamba.files import write_json, write_text
from segmamba.screen import print_line

if TYPE_CHECKING:
    from rich.console import Console

METRICS = ("dice", "nsd_1mm", "hd95_mm")
"""The metrics of `segmamba.evaluation.score` that are compared."""
COLUMNS = ("case", "patient", "region", "rule", "metric", "a", "b", "difference")
CAVEAT = (
    "About the methods behind these two models it is undecided: "
    "with one training run each, nothing shows how much training itself varies."
)


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A minus B of one metric on one region under one rule, over patients.

    Each patient's cases are averaged first, in A, in B and in the difference alike, so that
    `difference` is `mean_a` minus `mean_b`.
    """

    rule: str
    region: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float | None
    high: float | None
    """The t interval over patients at CONFIDENCE_LEVEL; None for fewer than two."""
    higher: int
    lower: int
    """Patients in whom A has the higher, or the lower, value; the others tie."""
    rank_p: float
    """The p of Wilcoxon's signed-rank test over patients."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare`."""

    about: dict[str, Any]
    """What was compared and by which rules."""
    paired: tuple[Paired, ...]
    rows: list[dict[str, Any]]
    """A dict of COLUMNS for each case, region, rule and metric."""
    verdicts: dict[str, str]
    """Rule to a sentence on the mean Dice of the regions; CAVEAT belongs to each."""


@dataclass(frozen=True)
class _Values:
    """One metric on one region under one rule: the value of each shared case on both sides."""

    rule: str
    region: str
    metric: str
    a: dict[str, float]
    b: dict[str, float]
    patients: dict[str, str]
    """Case to patient."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a dict of COLUMNS for each case."""
        for case, a in self.a.items():
            b = self.b[case]
            cells = (case, self.patients[case], self.region, self.rule, self.metric, a, b, a - b)
            yield dict(zip(COLUMNS, cells, strict=True))

    def paired(self) -> Paired:
        """Return the difference over patients."""
        a, b = (by_patient(side, self.patients) for side in (self.a, self.b))
        differences = np.array([a[patient] - b[patient] for patient in a])
        mean, low, high = patient_interval(differences, list(a))
        return Paired(
            rule=self.rule,
            region=self.region,
            metric=self.metric,
            mean_a=float(np.mean(list(a.values()))),
            mean_b=float(np.mean(list(b.values()))),
            difference=mean,
            low=low,
            high=high,
            higher=int((differences > 0).sum()),
            lower=int((differences < 0).sum()),
            rank_p=rank_p(differences),
        )


def compare(
    a: str | Path,
    b: str | Path,
    truth: str | Path,
    *,
    labels_a: str,
    labels_b: str,
    margin: float = DICE_MARGIN,
    **options: Any,
) -> Comparison:
    """Compare two folders of predictions case by case.

    Args:
        a: A folder of predictions.
        b: Another folder of predictions, of the same cases.
        truth: The data set, or a folder of segmentations.
        labels_a: The label convention of A's predictions, as `evaluate` takes prediction_labels.
        labels_b: That of B's predictions.
        margin: The smallest difference of Dice, in [0, 1], that matters.
        **options: Other options of `evaluate`.

    Returns:
        The differences, and a sentence on them for each rule.

    Raises:
        UserError: The folders have no case in common, or `evaluate` cannot score one of them.
    """
    side_a = evaluate(a, truth, prediction_labels=labels_a, **options)
    side_b = evaluate(b, truth, prediction_labels=labels_b, **options)
    if side_a.about["classes"] != side_b.about["classes"]:  # one side lacks classes of the other
        options["classes"] = GLIOMA.name
        side_a = evaluate(a, truth, prediction_labels=labels_a, **options)
        side_b = evaluate(b, truth, prediction_labels=labels_b, **options)
    shared = {row["case"] for row in side_a.rows} & {row["case"] for row in side_b.rows}
    if not shared:
        raise UserError(f"{a} and {b} have no case in common; give predictions of the same cases")
    values = list(_shared_values(side_a, side_b, shared))
    paired = tuple(one.paired() for one in values)
    notes = _notes(side_a, side_b, shared)
    patients = {row["case"]: row_patient(row) for row in side_a.rows if row["case"] in shared}
    about = side_a.about | {
        "a": str(a),
        "b": str(b),
        "cases": len(shared),
        "patients": len(set(patients.values())),
        "notes": notes,
    }
    del about["predictions"]
    decisive = {one.rule: one for one in paired if (one.region, one.metric) == (MEAN, "dice")}
    return Comparison(
        about=about,
        paired=paired,
        rows=[row for one in values for row in one.rows()],
        verdicts={rule: _verdict(decisive[rule], about, margin) for rule in about["rules"]},
    )


def _shared_values(side_a: Evaluation, side_b: Evaluation, shared: set[str]) -> Iterator[_Values]:
    patients = {row["case"]: row_patient(row) for row in side_a.rows}
    for rule in side_a.about["rules"]:
        for region in (*regions_of(side_a.rows), MEAN):
            for metric in METRICS:
                all_a, all_b = (
                    case_values(side.rows, rule, region, metric) for side in (side_a, side_b)
                )
                cases = [case for case in all_a if case in shared]
                yield _Values(
                    rule,
                    region,
                    metric,
                    {case: all_a[case] for case in cases},
                    {case: all_b[case] for case in cases},
                    patients,
                )


def _notes(side_a: Evaluation, side_b: Evaluation, shared: set[str]) -> list[str]:
    """Return the notes on both sides, then those on one, then on cases that one side lacks."""
    notes_a, notes_b = side_a.about["notes"], side_b.about["notes"]
    notes = [note for note in notes_a if note in notes_b]
    common = set(notes)
    for name, own in (("A", notes_a), ("B", notes_b)):
        notes += [f"{name}: {note}" for note in own if note not in common]
    only_a, only_b = (len({row["case"] for row in side.rows} - shared) for side in (side_a, side_b))
    if only_a or only_b:  # with --missing skip
        folder_a, folder_b = side_a.about["predictions"], side_b.about["predictions"]
        notes.append(
            f"compared are the {len(shared)} cases that both have; "
            f"{only_a} are only in {folder_a}, {only_b} only in {folder_b}"
        )
    return notes


def _verdict(paired: Paired, about: dict[str, Any], margin: float) -> str:
    """Return the sentence on the mean Dice of these two models."""
    size = f"{100 * abs(paired.difference):.1f}"
    where = "above" if paired.difference >= 0 else "below"
    estimate = f"A ({about['a']}) scores {size} Dice points {where} B ({about['b']}) on mean Dice"
    if size == "0.0":
        estimate = f"no difference of A ({about['a']}) and B ({about['b']}) on mean Dice"
    if paired.low is None or paired.high is None:
        return f"Undecided: {estimate}, but one patient says nothing about others."
    measured = (
        f"{estimate} (95 % interval {_points(paired.low)} to {_points(paired.high)} over "
        f"{_size(about)})"
    )
    differs = paired.low > 0 or paired.high < 0
    if -margin < paired.low and paired.high < margin:
        small = "; it excludes 0, so a difference exists, too small to matter" if differs else ""
        answer = (
            f"Equivalent: {measured}; the whole interval lies within "
            f"\N{PLUS-MINUS SIGN}{100 * margin:.1f} points that matter{small}."
        )
    elif differs:
        better = "A" if paired.low > 0 else "B"
        answer = f"{better} is the better model: {measured}; the interval excludes 0."
    else:
        answer = f"Undecided: {measured}; the interval holds 0 and differences that matter."
    if about["patients"] < FEW_PATIENTS:
        answer += (
            f" Fewer than {FEW_PATIENTS} patients: the interval errs where some scores are 0; "
            f"Wilcoxon's signed-rank test gives p = {paired.rank_p:.3f}."
        )
    return answer


def _size(about: Mapping[str, Any]) -> str:
    """The patients, and the cases where these are more, in words."""
    return counted(range(about["cases"]), range(about["patients"]))


def _points(dice: float) -> str:
    return f"{100 * dice:+.1f}".replace("-", "\N{MINUS SIGN}")


def write_comparison(folder: str | Path, comparison: Comparison) -> list[Path]:
    """Write differences.csv and comparison.json.

    Args:
        folder: Where the files go; it is created where it is missing.
        comparison: The result of `compare`.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = as_json(comparison) | {"rows": comparison.rows}
    return [
        write_text(folder / "differences.csv", as_csv(comparison.rows, COLUMNS)),
        write_json(folder / "comparison.json", content),
    ]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison without its rows, as JSON takes it."""
    return comparison.about | {
        "verdicts": comparison.verdicts,
        "caveat": CAVEAT,
        "paired": [vars(one) for one in comparison.paired],
    }


def render(comparison: Comparison, console: Console) -> None:
    """Print a table for each rule, then the verdicts and notes."""
    about = comparison.about
    for rule in about["rules"]:
        _print_table(
            f"rule: {rule}, {_size(about)}",
            [one for one in comparison.paired if one.rule == rule],
            console,
        )
    verdicts = [f"{rule}: {words}" for rule, words in comparison.verdicts.items()]
    for text in (*verdicts, CAVEAT, *(f"note     {note}" for note in about["notes"])):
        print_line(console, text)


def _print_table(title: str, paired: list[Paired], console: Console) -> None:
    from rich.table import Table

    table = Table(
        "region",
        "metric",
        "A",
        "B",
        "A - B",
        "95 % interval",
        "A higher",
        "A lower",
        "rank p",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    table.title = title
    for one in paired:
        scale = 1 if one.metric == "hd95_mm" else 100  # HD95 in mm, the others in points
        interval = (
            "-"
            if one.low is None or one.high is None
            else f"{scale * one.low:.2f} to {scale * one.high:.2f}"
        )
        name = {"dice": "Dice", "nsd_1mm": "NSD 1 mm", "hd95_mm": "HD95 mm"}[one.metric]
        values = (f"{scale * value:.2f}" for value in (one.mean_a, one.mean_b, one.difference))
        counts = (str(one.higher), str(one.lower), f"{one.rank_p:.3f}")
        table.add_row(one.region, name, *values, interval, *counts)
    console.print(table)
