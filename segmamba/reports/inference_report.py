"""The report of the inference ablation: a page, Markdown, a picture, and terminal tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from segmamba.evaluation.patients import NAMES, counted
from segmamba.evaluation.rules import LEGACY, LESIONWISE
from segmamba.files import write_text
from segmamba.reports.images import save_figure
from segmamba.reports.pages import html_page, plain, shown_store, template
from segmamba.reports.reading import INFERENCE
from segmamba.reports.style import (
    ARM_COLOURS,
    BASELINE_COLOUR,
    INK,
    MUTED,
    any_letters,
    lay_out,
    new_figure,
    report_style,
    short_name,
)
from segmamba.reports.tables import DASH, PHANTOM_NOTICE, duration
from segmamba.studies.hypothesis import MINUS
from segmamba.studies.results import CaseRow, StudyData
from segmamba.studies.words import count, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

FIGURE_COLUMNS = {"dice_mean": "mean Dice", "lesionwise_dice_mean": "lesion-wise Dice"}


class InferenceResults(Protocol):
    """The results of an inference ablation, as segmamba.orchestration makes them.

    Every arm is a way to predict with the same checkpoints.
    """

    @property
    def name(self) -> str:
        """Name of the run."""

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""

    @property
    def arms(self) -> Mapping[str, Mapping[str, Any]]:
        """The dotted changes of each arm."""

    @property
    def checkpoints(self) -> Sequence[str]:
        """Paths of the checkpoints."""

    @property
    def rows(self) -> Mapping[str, Sequence[Sequence[CaseRow]]]:
        """The rows of each arm, for every checkpoint and test case."""

    @property
    def mlflow_uri(self) -> str:
        """The address of the store that holds the runs."""

    @property
    def data(self) -> StudyData:
        """The data; only its test set is used."""

    @property
    def seconds(self) -> float:
        """Wall time."""

    @property
    def patients(self) -> Sequence[str]:
        """The patient of each test case."""

    def mean(self, arm: str, column: str) -> float:
        """Mean of a column over checkpoints and patients."""

    def seconds_a_case(self, arm: str) -> float:
        """Mean time of a case over checkpoints."""

    def difference(self, arm: str, column: str) -> tuple[float, float | None, float | None]:
        """(mean, low, high) of an arm minus the baseline."""


def write_inference_report(results: InferenceResults, folder: Path) -> Path:
    """Write report.html, report.md and plots/differences.png.

    Args:
        results: The results.
        folder: The folder that they are written into.

    Returns:
        The path of report.html.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figure = draw_differences(results)
    content = _content(results) | {"figure": save_figure(figure, folder / "plots", "differences")}
    write_text(folder / "report.md", template("inference.md.j2", autoescape=False).render(content))
    return write_text(folder / "report.html", html_page("inference.html.j2", content))


def _content(results: InferenceResults) -> dict[str, Any]:
    """What both templates and the terminal show."""
    several = len(results.checkpoints) > 1
    return {
        "results": results,
        "notice": PHANTOM_NOTICE if results.data.phantom else "",
        "summary": (
            f"{count(len(results.checkpoints), 'checkpoint')}, "
            f"{counted(results.data.test, results.patients)} tested, {duration(results.seconds)}"
        ),
        "interval": "over training runs and patients"
        if several
        else "over patients, for this one network: another training run may answer otherwise",
        "reading": INFERENCE,
        "tested": counted(results.data.test, results.patients),
        "headers": [
            "mean Dice",
            *results.data.regions,
            "HD95 (mm)",
            "lesion-wise Dice",
            "s a case",
        ],
        "rows": [_row(results, arm) for arm in results.arms],
        "pairs": [_pair(results, arm) for arm in results.arms if arm != results.baseline],
        "store": shown_store(results.mlflow_uri),
        "rules": f"Dice and HD95: {LEGACY}; lesion-wise Dice: {LESIONWISE}",
        "settings": {
            arm: {name: plain(value) for name, value in changes.items()}
            for arm, changes in results.arms.items()
        },
    }


def _row(results: InferenceResults, arm: str) -> dict[str, Any]:
    cells = [points(results.mean(arm, f"dice_{region}")) for region in results.data.scores]
    cells += [
        f"{results.mean(arm, 'hd95_mm_mean'):.1f}",
        points(results.mean(arm, "lesionwise_dice_mean")),
        f"{results.seconds_a_case(arm):.2f}",
    ]
    return {"name": arm, "cells": cells}


def _pair(results: InferenceResults, arm: str) -> dict[str, Any]:
    def cell(column: str, form: Callable[[float | None], str]) -> tuple[str, str]:
        mean, low, high = results.difference(arm, column)
        return form(mean), f"[{form(low)}, {form(high)}]" if low is not None else ""

    cells = [cell(f"dice_{region}", _signed_points) for region in results.data.scores]
    cells.append(cell("hd95_mm_mean", _signed_mm))
    cells.append(cell("lesionwise_dice_mean", _signed_points))
    slower = results.seconds_a_case(arm) / max(results.seconds_a_case(results.baseline), 1e-9)
    return {"name": arm, "cells": cells, "time": f"{slower:.1f}x"}


def _signed_points(dice: float | None) -> str:
    return points(dice, signed=True)


def _signed_mm(distance: float | None) -> str:
    return f"{distance:+.1f}".replace("-", MINUS) if distance is not None else DASH


def draw_differences(results: InferenceResults) -> Figure:
    """Draw every arm minus the baseline: mean Dice and lesion-wise Dice with their intervals.

    Args:
        results: The results.

    Returns:
        The figure.
    """
    arms = [arm for arm in results.arms if arm != results.baseline]
    with report_style(), any_letters():
        figure = new_figure(0.9 + 0.36 * len(arms))
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (column, title) in zip(panels, FIGURE_COLUMNS.items(), strict=True):
            panel.axvline(0, color=MUTED, lw=0.8)
            for y, arm in enumerate(arms):
                mean, low, high = results.difference(arm, column)
                if low is not None and high is not None:
                    panel.plot([100 * low, 100 * high], [-y, -y], color=INK, lw=1.4)
                colour = ARM_COLOURS[0] if low is not None else BASELINE_COLOUR
                panel.plot(100 * mean, -y, "o", color=colour, ms=5)
            panel.set_title(title)
            panel.tick_params(axis="y", length=0)
            panel.set_ylim(0.5 - len(arms), 0.5)
        panels[0].set_yticks([-y for y in range(len(arms))], [short_name(arm) for arm in arms])
        figure.supxlabel(
            f"minus '{short_name(results.baseline)}', Dice points; bars: 95 % interval", fontsize=8
        )
        lay_out(figure)
    return figure


def as_dict(results: InferenceResults) -> dict[str, Any]:
    """The means of every arm and the differences of mean Dice, for `--json`.

    Args:
        results: The results.

    Returns:
        Plain values; Dice is from 0 to 1.
    """
    columns = [
        name for name in results.rows[results.baseline][0][0] if name not in (*NAMES, "seconds")
    ]
    pairs = {
        arm: dict(zip(("mean", "low", "high"), results.difference(arm, "dice_mean"), strict=True))
        for arm in results.arms
        if arm != results.baseline
    }
    return {
        "study": results.name,
        "checkpoints": list(results.checkpoints),
        "arms": {
            arm: {"seconds": results.seconds_a_case(arm)}
            | {name: results.mean(arm, name) for name in columns}
            for arm in results.arms
        },
        "dice_mean_minus_baseline": pairs,
    }


def render_terminal(results: InferenceResults, console: Console) -> None:
    """Show the arms and the differences at the terminal.

    Args:
        results: The results.
        console: The terminal.
    """
    from rich.table import Column, Table
    from rich.text import Text

    content = _content(results)
    table = Table(
        "arm",
        *content["headers"],
        title=f"Dice in points; {content['rules']}",
        title_justify="left",
        box=None,
    )
    for row in content["rows"]:
        table.add_row(Text(row["name"]), *row["cells"])
    pairs = Table(
        Column(Text(f"minus '{results.baseline}'")),
        "mean Dice",
        "95 % interval",
        "lesion-wise Dice",
        "95 % interval",
        "time",
        box=None,
    )
    for row in content["pairs"]:
        pairs.add_row(Text(row["name"]), *row["cells"][0], *row["cells"][-1], row["time"])
    for shown in (table, pairs):
        console.print()
        console.print(shown)
    console.print(f"\nIntervals hold {content['interval']}.", highlight=False)
    if content["notice"]:
        console.print(content["notice"], style="bold")
