"""Pictures of an evaluation: how the scores are spread, the worst cases, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segmamba.data.label_sets import MEAN
from segmamba.evaluation.folders import pair_view
from segmamba.evaluation.score import ScoreRow
from segmamba.evaluation.summary import case_values, regions_of
from segmamba.pictures.figures import new_figure, save_figure
from segmamba.pictures.overlay import draw_cases
from segmamba.pictures.palette import COLOURS_ON_WHITE, DARK, LIGHT, REGION_COLOURS, Theme
from segmamba.pictures.view import surroundings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from segmamba.evaluation.compare import Comparison, Paired
    from segmamba.evaluation.result import Evaluation

WORST = 4
"""How many of the worst cases are shown."""
GREY = "#7f7f7f"
SHOWN = ("T1ce", "FLAIR")
"""The images of the worst cases."""


def write_pictures(folder: str | Path, evaluation: Evaluation, theme: Theme = DARK) -> list[Path]:
    """Draw distribution.png and worst_cases.png.

    Args:
        folder: Where the pictures go.
        evaluation: The result of `evaluate`.
        theme: What surrounds the images of the worst cases.

    Returns:
        The pictures.
    """
    return [
        draw_distribution(evaluation.rows, Path(folder) / "distribution.png"),
        draw_worst(evaluation, Path(folder) / "worst_cases.png", theme),
    ]


def draw_distribution(rows: Sequence[ScoreRow], path: Path) -> Path:
    """Draw Dice and HD95 per region and rule.

    A dot is a case. The box reaches from the first to the third quartile and shows the median.

    Args:
        rows: The scores of each case, region and rule.
        path: The picture's file.

    Returns:
        `path`.
    """
    save_figure(distribution(rows), path)
    return path


def distribution(rows: Sequence[ScoreRow], theme: Theme = LIGHT, across: int = 2) -> Figure:
    """Make the figure of `draw_distribution`.

    Args:
        rows: The scores of each case, region and rule.
        theme: The colours of the page and of the words.
        across: Panels beside each other, 1 for a small screen.
    """
    from matplotlib import rc_context

    rules = list(dict.fromkeys(row["rule"] for row in rows))
    panels_in = (4.5, 3.2) if across == 2 else (4.2, 2.8)
    down = 2 * len(rules) // across
    with rc_context(_colours_of(theme)):
        figure = new_figure(
            figsize=(panels_in[0] * across, panels_in[1] * down), layout="constrained"
        )
        panels = iter(figure.subplots(down, across, squeeze=False).flat)
        for rule in rules:
            dice, hd95_mm = next(panels), next(panels)
            for panel, metric, name in (
                (dice, "dice", "Dice"),
                (hd95_mm, "hd95_mm", "HD95 (mm)"),
            ):
                _draw_spread(panel, rows, rule, metric, theme)
                panel.set(title=f"{name}, rule {rule}", xlim=(-0.6, len(regions_of(rows)) + 0.6))
            dice.set_ylim(-0.03, 1.03)
            hd95_mm.set_yscale("symlog", linthresh=1)
            hd95_mm.set_ylim(-0.1, 600)
            hd95_mm.set_yticks(
                [0, 1, 3, 10, 30, 100, 374], ["0", "1", "3", "10", "30", "100", "374"], minor=False
            )
            hd95_mm.minorticks_off()
        figure.draw_without_rendering()  # makes the ticks while the colours hold
    return figure


def _colours_of(theme: Theme) -> dict[Any, Any]:
    """Matplotlib's settings for a page of this theme."""
    words = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    paper = ("figure.facecolor", "axes.facecolor")
    return dict.fromkeys(words, theme.ink) | dict.fromkeys(paper, theme.page)


def _draw_spread(
    panel: Axes, rows: Sequence[ScoreRow], rule: str, metric: str, theme: Theme
) -> None:
    rng = np.random.default_rng(0)
    names = (*regions_of(rows), MEAN)
    known = COLOURS_ON_WHITE if theme == LIGHT else REGION_COLOURS
    for place, region in enumerate(names):
        values = np.array(list(case_values(rows, rule, region, metric).values()))
        colour = known.get(region, GREY)
        box = {"facecolor": colour, "alpha": 0.35, "edgecolor": "none"}
        panel.boxplot(
            values,
            positions=[place],
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops=box,
            medianprops={"color": theme.ink},
            whiskerprops={"color": GREY},
            capprops={"visible": False},
        )
        panel.scatter(
            place + rng.uniform(-0.18, 0.18, len(values)),
            values,
            s=9,
            color=theme.ink,
            alpha=0.45,
            linewidths=0,
            zorder=3,
        )
    panel.set_xticks(range(len(names)), names)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)


def draw_worst(evaluation: Evaluation, path: Path, theme: Theme = DARK) -> Path:
    """Draw truth, prediction and errors of the WORST cases by mean Dice under the first rule.

    Args:
        evaluation: The result of `evaluate`.
        path: The picture's file.
        theme: What surrounds the images.

    Returns:
        `path`.
    """
    rule = next(iter(evaluation.summary["scores"]))
    scores = case_values(evaluation.rows, rule, MEAN, "dice")
    worst = sorted(scores, key=lambda case: scores[case])[:WORST]
    pairs = {pair.id: pair for pair in evaluation.pairs}
    views = []
    for case in worst:
        view = pair_view(pairs[case], f"{case}: mean Dice {scores[case]:.2f}, {rule}", SHOWN)
        views.append(view.cut(surroundings(view.tumour())))
    draw_cases(path, views, theme)
    return path


def draw_differences(comparison: Comparison, path: Path) -> Path:
    """Draw A minus B of Dice per region and rule.

    A dot is a case; beside it stands the mean with its interval over patients.

    Args:
        comparison: The result of `compare`.
        path: The picture's file.

    Returns:
        `path`.
    """
    rules = list(comparison.about["rules"])
    figure = new_figure(figsize=(4.5 * len(rules), 3.6), layout="constrained")
    rng = np.random.default_rng(0)
    panels = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    for panel, rule in zip(panels, rules, strict=True):
        panel.axhline(0, color=GREY, linewidth=0.8)
        paired = {
            one.region: one for one in comparison.paired if (one.rule, one.metric) == (rule, "dice")
        }
        for place, (region, one) in enumerate(paired.items()):
            differences = [
                row["difference"]
                for row in comparison.rows
                if (row["rule"], row["region"], row["metric"]) == (rule, region, "dice")
            ]
            _draw_difference(panel, place, one, 100 * np.array(differences), rng)
        panel.set_xticks(range(len(paired)), list(paired))
        panel.set(title=f"A - B, rule {rule}", xlim=(-0.6, len(paired) - 0.2))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, axis="y")
    figure.axes[0].set_ylabel("difference in Dice points")
    save_figure(figure, path)
    return path


def _draw_difference(
    panel: Axes, place: int, paired: Paired, points: np.ndarray, rng: np.random.Generator
) -> None:
    """Draw one region's differences in Dice points, (cases,), and their mean at `place`."""
    panel.scatter(
        place + rng.uniform(-0.2, 0.1, len(points)),
        points,
        s=12,
        color=COLOURS_ON_WHITE.get(paired.region, GREY),
        alpha=0.7,
        edgecolors="0.3",
        linewidths=0.3,
    )
    if paired.low is not None and paired.high is not None:
        panel.vlines(
            place + 0.25, 100 * paired.low, 100 * paired.high, color="black", linewidth=1.5
        )
    panel.plot(place + 0.25, 100 * paired.difference, "o", color="black", markersize=4)
