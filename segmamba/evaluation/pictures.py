"""Pictures of an evaluation: how the scores are spread, and the worst cases."""

from pathlib import Path

import numpy as np

from segmamba.data.labels import REGIONS
from segmamba.evaluation.folders import read_image, read_pair
from segmamba.evaluation.summary import MEAN, case_values
from segmamba.pictures import (
    REGION_COLOURS,
    add_outline_legend,
    busiest_slices,
    draw_plane,
    new_figure,
    save_figure,
    surroundings,
)

WORST = 4
GREY = "#7f7f7f"
MODALITY = "T1ce"


def write_pictures(folder, evaluation):
    """distribution.png and worst_cases.png in `folder`; returns their paths."""
    return [
        draw_distribution(evaluation.rows, Path(folder) / "distribution.png"),
        draw_worst(evaluation, Path(folder) / "worst_cases.png"),
    ]


def draw_distribution(rows, path):
    """Dice and HD95 per region and rule: a dot for a case, its box from the first to the third quartile with the median."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    figure = new_figure(figsize=(9, 3.2 * len(rules)), layout="constrained")
    grid = figure.subplots(len(rules), 2, squeeze=False)
    for panels, rule in zip(grid, rules, strict=True):
        for panel, metric, name in zip(
            panels, ("dice", "hd95_mm"), ("Dice", "HD95 (mm)"), strict=True
        ):
            _draw_spread(panel, rows, rule, metric)
            panel.set(title=f"{name}, rule {rule}", xlim=(-0.6, len(REGIONS) + 0.6))
        panels[0].set_ylim(-0.03, 1.03)
        panels[1].set_yscale("symlog", linthresh=1)
        panels[1].set_ylim(-0.1, 600)
        panels[1].set_yticks(
            [0, 1, 3, 10, 30, 100, 374], ["0", "1", "3", "10", "30", "100", "374"], minor=False
        )
        panels[1].minorticks_off()
    save_figure(figure, path)
    return path


def _draw_spread(panel, rows, rule, metric):
    rng = np.random.default_rng(0)
    for place, region in enumerate((*REGIONS, MEAN)):
        values = np.array(list(case_values(rows, rule, region, metric).values()))
        colour = REGION_COLOURS.get(region, GREY)
        box = {"facecolor": colour, "alpha": 0.35, "edgecolor": "none"}
        panel.boxplot(
            values,
            positions=[place],
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops=box,
            medianprops={"color": "black"},
            whiskerprops={"color": GREY},
            capprops={"visible": False},
        )
        panel.scatter(
            place + rng.uniform(-0.18, 0.18, len(values)),
            values,
            s=9,
            color="black",
            alpha=0.45,
            linewidths=0,
            zorder=3,
        )
    panel.set_xticks(range(len(REGIONS) + 1), [*REGIONS, "mean"])
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)


def draw_worst(evaluation, path):
    """The WORST cases by their mean Dice under the first rule: three planes through the tumour, truth solid and prediction dashed."""
    rule = next(iter(evaluation.summary["scores"]))
    scores = case_values(evaluation.rows, rule, MEAN, "dice")
    worst = sorted(scores, key=scores.get)[:WORST]
    figure = new_figure(figsize=(9, 3.1 * len(worst) + 0.5), layout="constrained")
    grid = figure.subplots(len(worst), 3, squeeze=False)
    pairs = {pair.id: pair for pair in evaluation.pairs}
    for panels, case in zip(grid, worst, strict=True):
        pred, truth, _ = read_pair(pairs[case])
        image = read_image(pairs[case], MODALITY)
        image = (truth > 0).astype(np.float32) if image is None else image
        tumour = truth > 0 if truth.any() else pred > 0
        box, centre = surroundings(tumour), busiest_slices(tumour)
        for axis, panel in enumerate(panels):
            draw_plane(panel, image, truth, pred, axis, centre[axis], box)
        panels[0].set_title(f"{case}\nmean Dice {scores[case]:.2f}, {rule}", fontsize=9, loc="left")
    add_outline_legend(figure)
    save_figure(figure, path)
    return path


def draw_differences(found, path):
    """A minus B of Dice per region and rule: a dot for a case, the mean with its interval over patients beside it."""
    rules = list(found.about["rules"])
    figure = new_figure(figsize=(4.5 * len(rules), 3.6), layout="constrained")
    rng = np.random.default_rng(0)
    for panel, rule in zip(
        figure.subplots(1, len(rules), squeeze=False, sharey=True)[0], rules, strict=True
    ):
        panel.axhline(0, color=GREY, linewidth=0.8)
        paired = {
            one.region: one for one in found.paired if (one.rule, one.metric) == (rule, "dice")
        }
        for place, (region, one) in enumerate(paired.items()):
            values = 100 * np.array(
                [
                    r["difference"]
                    for r in found.rows
                    if (r["rule"], r["region"], r["metric"]) == (rule, region, "dice")
                ]
            )
            colour = REGION_COLOURS.get(region, GREY)
            panel.scatter(
                place + rng.uniform(-0.2, 0.1, len(values)),
                values,
                s=12,
                color=colour,
                alpha=0.7,
                edgecolors="0.3",
                linewidths=0.3,
            )
            if one.low is not None:
                panel.vlines(
                    place + 0.25, 100 * one.low, 100 * one.high, color="black", linewidth=1.5
                )
            panel.plot(place + 0.25, 100 * one.difference, "o", color="black", markersize=4)
        panel.set_xticks(range(len(paired)), list(paired))
        panel.set(title=f"A - B, rule {rule}", xlim=(-0.6, len(paired) - 0.2))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, axis="y")
    figure.axes[0].set_ylabel("difference in Dice points")
    save_figure(figure, path)
    return path
