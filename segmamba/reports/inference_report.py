"""The report of the inference ablation: a page, Markdown, a picture, a table for the terminal."""

from segmamba.data.labels import REGIONS
from segmamba.evaluation.rules import LEGACY, LESIONWISE
from segmamba.files import write_text
from segmamba.reports.figures import (
    ARM_COLOURS,
    BASELINE_COLOUR,
    INK,
    MUTED,
    STYLE,
    WIDTH_IN,
    save_png,
    to_svg,
)
from segmamba.reports.pages import plain, template
from segmamba.reports.tables import DASH, PHANTOM_NOTICE, duration
from segmamba.studies.contrasts import count, points

COLUMNS = ("mean", *REGIONS)


def write_inference_report(found, folder):
    """Write report.html, report.md and plots/differences.png into `folder`; returns the path of report.html."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figure = draw_differences(found)
    save_png(figure, folder / "plots" / "differences.png")
    content = content_of(found) | {"figure": to_svg(figure, "differences")}
    write_text(folder / "report.md", template("inference.md.j2", autoescape=False).render(content))
    return write_text(
        folder / "report.html", template("inference.html.j2", autoescape=True).render(content)
    )


def content_of(found):
    """What both templates and the terminal show."""
    several = len(found.checkpoints) > 1
    return {
        "found": found,
        "notice": PHANTOM_NOTICE if found.data["phantom"] else "",
        "summary": f"{count(len(found.checkpoints), 'checkpoint')}, {count(len(found.data['test']), 'test case')}, {duration(found.seconds)}",
        "interval": "over training runs and cases"
        if several
        else "over patients, for this one network: another training run may answer otherwise",
        "headers": ["mean Dice", "ET", "TC", "WT", "HD95 (mm)", "lesion-wise Dice", "s a case"],
        "rows": [_row(found, arm) for arm in found.arms],
        "pairs": [_pair(found, arm) for arm in found.arms if arm != found.baseline],
        "rules": f"Dice and HD95: {LEGACY}; lesion-wise Dice: {LESIONWISE}",
        "settings": {
            arm: {name: plain(value) for name, value in changes.items()}
            for arm, changes in found.arms.items()
        },
    }


def _row(found, arm):
    cells = [points(found.mean(arm, f"dice_{c}")) for c in COLUMNS]
    cells += [
        f"{found.mean(arm, 'hd95_mm_mean'):.1f}",
        points(found.mean(arm, "lesionwise_dice_mean")),
        f"{found.mean(arm, 'seconds'):.2f}",
    ]
    return {"name": arm, "cells": cells}


def _pair(found, arm):
    cells = [_cell(found.difference(arm, f"dice_{c}"), points) for c in COLUMNS]
    cells.append(_cell(found.difference(arm, "hd95_mm_mean"), _mm))
    cells.append(_cell(found.difference(arm, "lesionwise_dice_mean"), points))
    slower = found.mean(arm, "seconds") / max(found.mean(found.baseline, "seconds"), 1e-9)
    return {"name": arm, "cells": cells, "time": f"{slower:.1f}x"}


def _cell(found, form):
    mean, low, high = found
    return form(mean, True), f"[{form(low, True)}, {form(high, True)}]" if low is not None else ""


def _mm(value, signed=False):
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") if value is not None else DASH


def draw_differences(found):
    """Every arm minus the baseline: mean Dice and lesion-wise Dice with their intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    arms = [arm for arm in found.arms if arm != found.baseline]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.36 * len(arms)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        titles = (("dice_mean", "mean Dice"), ("lesionwise_dice_mean", "lesion-wise Dice"))
        for panel, (column, title) in zip(panels, titles, strict=True):
            panel.axvline(0, color=MUTED, lw=0.8)
            for y, arm in enumerate(arms):
                mean, low, high = found.difference(arm, column)
                if low is not None:
                    panel.plot([100 * low, 100 * high], [-y, -y], color=INK, lw=1.4)
                panel.plot(
                    100 * mean,
                    -y,
                    "o",
                    color=ARM_COLOURS[0] if low is not None else BASELINE_COLOUR,
                    ms=5,
                )
            panel.set_title(title)
            panel.tick_params(axis="y", length=0)
            panel.set_ylim(0.5 - len(arms), 0.5)
        panels[0].set_yticks([-y for y in range(len(arms))], arms)
        figure.supxlabel(f"minus '{found.baseline}', Dice points; bars: 95 % interval", fontsize=8)
        figure.draw_without_rendering()
    return figure


def as_dict(found):
    """For --json: means of every arm, Dice from 0 to 1, and differences of mean Dice."""
    columns = [name for name in found.rows[found.baseline][0][0] if name != "case"]
    arms = {arm: {name: found.mean(arm, name) for name in columns} for arm in found.arms}
    pairs = {
        arm: dict(zip(("mean", "low", "high"), found.difference(arm, "dice_mean"), strict=True))
        for arm in found.arms
        if arm != found.baseline
    }
    return {
        "study": found.name,
        "checkpoints": list(found.checkpoints),
        "arms": arms,
        "dice_mean_minus_baseline": pairs,
    }


def render_terminal(found, console):
    from rich.table import Table

    content = content_of(found)
    table = Table(
        "arm",
        *content["headers"],
        title=f"Dice in points; {content['rules']}",
        title_justify="left",
        box=None,
    )
    for row in content["rows"]:
        table.add_row(row["name"], *row["cells"])
    pairs = Table(
        f"minus '{found.baseline}'",
        "mean Dice",
        "95 % interval",
        "lesion-wise Dice",
        "95 % interval",
        "time",
        box=None,
    )
    for row in content["pairs"]:
        pairs.add_row(row["name"], *row["cells"][0], *row["cells"][-1], row["time"])
    for shown in (table, pairs):
        console.print()
        console.print(shown)
    console.print(f"\nIntervals hold {content['interval']}.", highlight=False)
    if content["notice"]:
        console.print(content["notice"], style="bold")
