"""evaluation.html: the scores of a folder of predictions, and the cases to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmamba.data.label_sets import MEAN
from segmamba.errors import UserError
from segmamba.evaluation.folders import Pair, pair_view
from segmamba.evaluation.patients import counted, row_patient
from segmamba.evaluation.pictures import distribution
from segmamba.evaluation.prediction_page import TEMPLATES
from segmamba.evaluation.result import Evaluation
from segmamba.evaluation.score import ScoreRow
from segmamba.evaluation.summary import case_values, regions_of
from segmamba.files import write_text
from segmamba.pictures.case_rows import CaseRow, Cell, cell
from segmamba.pictures.encode import ViewerCase, encode_case
from segmamba.pictures.figures import png_of
from segmamba.pictures.pages import template
from segmamba.pictures.palette import DARK, LIGHT
from segmamba.pictures.viewer import by_interest, fitting, named_cases, viewer_section
from segmamba.screen import points

PAGE = "evaluation.html"
NARROW, IN_THE_DARK = "(max-width: 44rem)", "(prefers-color-scheme: dark)"
SPREAD = {
    f"screen and {IN_THE_DARK} and {NARROW}": (DARK, 1),
    f"screen and {IN_THE_DARK}": (DARK, 2),
    f"screen and {NARROW}": (LIGHT, 1),
    "all": (LIGHT, 2),
}
"""How the scores are drawn by where they are seen: the first that holds."""
COLUMNS = ("Dice", "95 %", "median", "HD95 mm", "95 % mm", "median mm", "NSD 1 mm", "sensitivity")


def write_page(folder: str | Path, evaluation: Evaluation) -> Path:
    """Write the page beside the tables.

    Args:
        folder: Where the page goes.
        evaluation: The result of `evaluate`.

    Returns:
        The page.
    """
    folder = Path(folder)
    rule = next(iter(evaluation.summary["scores"]))
    dice = case_values(evaluation.rows, rule, MEAN, "dice")
    spread = {
        media: png_of(distribution(evaluation.rows, theme, across))
        for media, (theme, across) in SPREAD.items()
    }
    taken = sum(len(drawn) for drawn in spread.values()) * 4 // 3
    viewed = fitting(_viewer_cases(evaluation, dice), taken)
    held = {case.id for case in viewed}
    rows = [
        CaseRow(case, case in held, _cells(evaluation, rule, case))
        for case in sorted(dice, key=lambda case: (dice[case], case))
    ]
    text = template("evaluation.html.j2", TEMPLATES).render(
        size=counted((row["case"] for row in evaluation.rows), map(row_patient, evaluation.rows)),
        about=evaluation.about,
        summaries={
            name: {"columns": COLUMNS, "rows": {region: _figures(f) for region, f in found.items()}}
            for name, found in evaluation.summary["scores"].items()
        },
        viewer=viewer_section(viewed, len(dice), f"Dice: mean over the regions, {rule}"),
        first_rule=rule,
        columns=list(rows[0].cells),
        rows=rows,
        spread=spread,
    )
    return write_text(folder / PAGE, text)


def _viewer_cases(evaluation: Evaluation, dice: Mapping[str, float]) -> Iterator[ViewerCase]:
    pairs: dict[str, Pair] = {pair.id: pair for pair in evaluation.pairs}
    groups = {case: name for name, case in named_cases(dice).items()}
    for case in by_interest(dice):
        try:
            view = pair_view(pairs[case], case)
        except UserError:
            continue  # it was scored; an image beside its truth is damaged
        yield encode_case(view, dice={"prediction": dice[case]}, group=groups.get(case, ""))


def _cells(evaluation: Evaluation, rule: str, case: str) -> dict[str, Cell]:
    """The scores of a case under a rule."""
    of_case: Sequence[ScoreRow] = [
        row for row in evaluation.rows if (row["case"], row["rule"]) == (case, rule)
    ]
    regions = regions_of(of_case)
    by_region = {row["region"]: row for row in of_case}
    mean = {
        metric: sum(row[metric] for row in of_case) / len(of_case) for metric in ("dice", "hd95_mm")
    }
    cells = {"Dice": cell(mean["dice"], 1, 100)}
    cells |= {f"Dice {region}": cell(by_region[region]["dice"], 1, 100) for region in regions}
    cells["HD95"] = cell(mean["hd95_mm"], 1)
    outer = by_region.get("WT", of_case[-1])
    cells[f"{outer['region']} true"] = cell(outer["volume_ml"], 1)
    cells[f"{outer['region']} predicted"] = cell(outer["predicted_ml"], 1)
    return cells


def _figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a region as the table of the screen has them."""
    dice, hd95_mm = metrics["dice"], metrics["hd95_mm"]

    def interval(figures: Mapping[str, float | None], scale: float = 1) -> str:
        low, high = figures["low"], figures["high"]
        if low is None or high is None:
            return "\N{EN DASH}"
        return f"{scale * low:.1f}\N{EN DASH}{scale * high:.1f}"

    cells = (
        points(dice["mean"], decimals=2),
        interval(dice, 100),
        points(dice["median"], decimals=2),
        f"{hd95_mm['mean']:.2f}",
        interval(hd95_mm),
        f"{hd95_mm['median']:.2f}",
        points(metrics["nsd_1mm"]["mean"]),
        points(metrics["sensitivity"]["mean"]),
    )
    return dict(zip(COLUMNS, cells, strict=True))
