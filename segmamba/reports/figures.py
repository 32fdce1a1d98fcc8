"""The report's pictures: each function takes a Study and gives a matplotlib Figure, or None where there is nothing to show."""

import io
import math
import re
import textwrap

import numpy as np

from segmamba.files import replacing
from segmamba.studies.contrasts import compare_arms, points
from segmamba.studies.hypothesis import REGIONS, Trend
from segmamba.studies.verdict import verdict

INK, MUTED, RULE, BAND = "#1b1c1d", "#6b6c6d", "#dbdcdd", "#eceded"
"""Text and lines, secondary text, grid, margin band."""
BASELINE_COLOUR = "#7f7f7f"
ARM_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe & Ito (2008): told apart by colour-blind readers and in grey; their yellow and black vanish on one page colour or the other."""
# The page's SVG takes these from CSS variables, so that dark mode can turn them.
PAGE_COLOURS = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    BAND: "--band",
    ARM_COLOURS[0]: "--blue",
}
LINE_STYLES = ("-", "--", ":", "-.")  # past six arms the colours come again with another line
WIDTH_IN = 7.2  # a two-column page of most journals


def arm_colours(study):
    """{arm: colour}, the same in every picture; the baseline is grey."""
    others = [arm for arm in study.arms if arm != study.baseline]
    return {study.baseline: BASELINE_COLOUR} | {
        arm: ARM_COLOURS[i % len(ARM_COLOURS)] for i, arm in enumerate(others)
    }


def _line_style(study, arm):
    others = [other for other in study.arms if other != study.baseline]
    return (
        LINE_STYLES[others.index(arm) // len(ARM_COLOURS) % len(LINE_STYLES)]
        if arm in others
        else "-"
    )


def draw_differences(study):
    """Forest plot: every paired difference with its 95 % interval and its seeds, per region, the decision's first."""
    compared = compare_arms(study)
    rows = [row.regions for row in compared]
    if not any(found.seeds for row in rows for found in row.values()):
        return None
    decides = study.hypothesis.regions[0]
    regions = [decides, *(r for r in REGIONS if r != decides)]
    labels = [_row_label(row[decides]) for row in rows]
    figure = _figure(
        height_in=0.8
        + len(rows) * max(0.46, *(0.14 * label.count("\n") + 0.28 for label in labels))
    )
    panels = figure.subplots(
        1,
        len(regions),
        sharex=True,
        sharey=True,
        squeeze=False,
        width_ratios=[1.7] + [1] * (len(regions) - 1),
    )[0]
    limits = _limits(rows, study.hypothesis.margin)
    colours = arm_colours(study)
    for panel, region in zip(panels, regions, strict=True):
        panel.axvspan(
            -100 * study.hypothesis.margin,
            100 * study.hypothesis.margin,
            color=BAND,
            lw=0,
            zorder=0,
        )
        panel.axvline(0, color=MUTED, lw=0.8, zorder=1)
        for y, row in enumerate(rows):
            _draw_interval(panel, -y, row[region], colours.get(row[region].arm, INK), limits)
        title = "mean of regions" if region == "mean" else region
        panel.set_title(
            f"{title} (decides)" if region == decides else title,
            fontweight="bold" if region == decides else "normal",
        )
        panel.tick_params(axis="y", length=0, pad=7)
        panel.xaxis.get_major_locator().set_params(nbins=4)
        panel.set(xlim=limits, ylim=(0.55 - len(rows), 0.5))
    panels[0].set_yticks([-y for y in range(len(rows))], labels)
    for tick, row in zip(panels[0].get_yticklabels(), compared, strict=True):
        tick.set_fontweight("bold" if row.decides else "normal")
    figure.supxlabel(
        f"difference in Dice points; bars: 95 % interval, dots: seeds, band: ±{points(study.hypothesis.margin)} margin",
        fontsize=8,
    )
    return figure


def _limits(rows, margin):
    """x limits, in points, that show every estimate and every seed; intervals of two seeds may reach far beyond and get an arrow."""
    found = [f for row in rows for f in row.values() if f.seeds]
    near = max(
        [
            2 * margin,
            *(abs(v) for f in found for v in (f.mean, *f.seed_differences) if math.isfinite(v)),
        ]
    )
    low = min(
        [
            -1.3 * margin,
            *(
                max(v, -2.5 * near)
                for f in found
                for v in (f.low, *f.seed_differences)
                if math.isfinite(v)
            ),
        ]
    )
    high = max(
        [
            1.3 * margin,
            *(
                min(v, 2.5 * near)
                for f in found
                for v in (f.high, *f.seed_differences)
                if math.isfinite(v)
            ),
        ]
    )
    pad = 0.06 * (high - low)
    return 100 * (low - pad), 100 * (high + pad)


def _draw_interval(panel, y, found, colour, limits):
    if not math.isfinite(found.mean):
        panel.text(np.mean(limits), y, "no pair", color=MUTED, ha="center", va="center", fontsize=7)
        return
    panel.plot(
        [100 * v for v in found.seed_differences],
        [y - 0.2] * len(found.seed_differences),
        "o",
        color=colour,
        ms=2.6,
        alpha=0.6,
        mew=0,
    )
    whole = math.isfinite(found.low)
    panel.plot(
        100 * found.mean, y, "D", color=colour, ms=5, mfc=colour if whole else "none", zorder=4
    )
    if not whole:
        return
    ends = np.clip([100 * found.low, 100 * found.high], *limits)
    panel.plot(ends, [y, y], color=colour, lw=1.8, solid_capstyle="butt", zorder=3)
    for end, real, arrow in zip(ends, (100 * found.low, 100 * found.high), "<>", strict=True):
        panel.plot(
            end, y, arrow if end != real else "|", color=colour, ms=5, clip_on=False, zorder=4
        )


def _row_label(found):
    name = textwrap.fill(
        f"{_short(found.arm)} \N{MINUS SIGN} {_short(found.versus)}"
        if found.versus
        else found.label,
        30,
    )
    interval = (
        f" [{points(found.low, True)}, {points(found.high, True)}]"
        if math.isfinite(found.low)
        else ""
    )
    return f"{name}\n{points(found.mean, True)}{interval}" if found.seeds else name


def _short(arm):
    """A name that fits into a picture; the tables have it whole."""
    return (
        textwrap.shorten(arm, 36, placeholder="\N{HORIZONTAL ELLIPSIS}") if len(arm) > 36 else arm
    )


def draw_curves(study):
    """Validation Dice and training loss over epochs; one thin line per trial, the mean of the finished ones thick."""
    series = (
        ("val/dice_mean", "validation mean Dice (points)", 100),
        ("train/loss", "training loss", 1),
    )
    if not any(trial.history.get(name) for trial in study.trials for name, _, _ in series):
        return None
    figure = _figure(height_in=2.9)
    for panel, (name, label, scale) in zip(figure.subplots(1, 2), series, strict=True):
        for arm, colour in arm_colours(study).items():
            _draw_arm_curves(
                panel,
                [t for t in study.trials if t.arm == arm],
                name,
                scale,
                colour,
                _line_style(study, arm),
            )
        panel.set(xlabel="epoch", title=label)
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        panel.grid(axis="y", color=RULE, lw=0.6)
    _arm_legend(figure, study)
    return figure


def _draw_arm_curves(panel, trials, name, scale, colour, style):
    values = {}
    for trial in trials:
        curve = [
            (step, scale * value)
            for step, value in trial.history.get(name, [])
            if math.isfinite(value)
        ]
        if not curve:
            continue
        panel.plot(
            *zip(*curve, strict=True),
            color=colour,
            lw=0.7,
            alpha=0.45,
            ls=style,
            marker=_dot(curve),
            ms=3,
        )
        if trial.status == "FINISHED":
            for step, value in curve:
                values.setdefault(step, []).append(value)
        else:
            panel.plot(*curve[-1], "x", color=colour, ms=5)  # where it broke off
    if values:
        steps = sorted(values)
        panel.plot(
            steps,
            [np.mean(values[step]) for step in steps],
            color=colour,
            lw=1.8,
            ls=style,
            marker=_dot(steps),
            ms=5,
        )


def _dot(curve):
    """A short curve needs its points marked; one of a single point is nothing but its point."""
    return "o" if len(curve) <= 5 else ""


def draw_cost(study):
    """Test Dice against training time and against parameters: seeds small, the arm's mean large."""
    costs = (
        ("time/train_total_s", *_time_unit(study)),
        ("model/parameters", "parameters (millions)", 1e-6),
    )
    found = {
        arm: [
            t
            for t in study.trials
            if t.arm == arm and math.isfinite(t.metrics.get("test/dice_mean", math.nan))
        ]
        for arm in study.arms
    }
    costs = [
        cost
        for cost in costs
        if any(cost[0] in t.metrics for trials in found.values() for t in trials)
    ]
    if not costs:
        return None
    figure, colours = _figure(height_in=2.9), arm_colours(study)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for panel, (name, label, scale) in zip(panels, costs, strict=True):
        for arm, trials in found.items():
            pairs = np.array(
                [
                    (scale * t.metrics[name], 100 * t.metrics["test/dice_mean"])
                    for t in trials
                    if name in t.metrics
                ]
            )
            if len(pairs):
                panel.plot(*pairs.T, "o", color=colours[arm], ms=3.5, alpha=0.5, mew=0)
                panel.plot(*pairs.mean(0), "D", color=colours[arm], ms=7)
        panel.set(xlabel=label)
        panel.margins(0.12)
        panel.grid(color=RULE, lw=0.6)
    panels[0].set_ylabel("test mean Dice (points)")
    _arm_legend(figure, study, marker="D")
    return figure


def _time_unit(study):
    longest = max(
        [
            t.metrics["time/train_total_s"]
            for t in study.trials
            if "time/train_total_s" in t.metrics
        ],
        default=0,
    )
    unit, scale = next(
        (u, s)
        for u, s, least in (("hours", 1 / 3600, 7200), ("minutes", 1 / 60, 120), ("seconds", 1, 0))
        if longest >= least
    )
    return f"training time per trial ({unit})", scale


def draw_cases(study):
    """The contrast that the answer leads with, patient by patient: the mean over seeds of each test case, sorted."""
    claim, found = study.hypothesis, verdict(study).difference
    if (
        len(found.case_differences) < 5 or not found.versus
    ):  # fewer are better read in the per-case table
        return None
    heights = 100 * np.sort(found.case_differences)
    figure = _figure(height_in=2.3)
    panel, colours = figure.subplots(), arm_colours(study)
    panel.axhspan(-100 * claim.margin, 100 * claim.margin, color=BAND, lw=0, zorder=0)
    panel.bar(
        np.arange(1, len(heights) + 1),
        heights,
        width=0.8,
        color=np.where(heights > 0, colours[found.arm], colours[found.versus]),
    )
    panel.axhline(0, color=MUTED, lw=0.8)
    panel.axhline(100 * found.mean, color=INK, lw=1, ls="--")
    panel.set_xlim(0.3, len(heights) + 0.7)
    panel.annotate(
        "mean",
        (1, 100 * found.mean),
        (3, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=7,
        color=INK,
    )
    better = int((heights > 0).sum())
    panel.set(
        xlabel=f"test cases, sorted: {better} of {len(heights)} better with {_short(found.arm)}",
        ylabel=f"{found.region}, Dice points",
    )
    panel.set_title(
        f"{_short(found.arm)} \N{MINUS SIGN} {_short(found.versus)}, per patient (mean of {len(found.seeds)} seeds)"
    )
    panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def draw_doses(study):
    """Dice against the dose of each trend that the study claims: seeds small, means large."""
    trends = [
        (claim, contrast)
        for claim in study.claims
        for contrast in claim.contrasts
        if isinstance(contrast, Trend)
    ]
    if not trends:
        return None
    figure, colours = _figure(height_in=2.5), arm_colours(study)
    for panel, (claim, trend) in zip(
        figure.subplots(1, len(trends), squeeze=False)[0], trends, strict=True
    ):
        name, means = f"test/{claim.score}_{claim.regions[0]}", {}
        for arm, dose in trend.doses.items():
            found = [
                100 * t.metrics[name]
                for t in study.trials
                if t.arm == arm and t.status == "FINISHED" and name in t.metrics
            ]
            if found:
                panel.plot(
                    [dose] * len(found), found, "o", color=colours[arm], ms=3.5, alpha=0.5, mew=0
                )
                means[dose] = np.mean(found)
                panel.plot(dose, means[dose], "D", color=colours[arm], ms=7, zorder=3)
        panel.plot(list(means), list(means.values()), color=MUTED, lw=1, zorder=1)
        panel.set_xticks(list(trend.doses.values()), [_short(arm) for arm in trend.doses])
        panel.set_ylabel(f"test {claim.regions[0]} Dice (points)")
        panel.grid(axis="y", color=RULE, lw=0.6)
    return figure


def draw_search(study):
    """A search: the validation set's Dice of every trial in the order tried, and the importance of the settings."""
    tried = [(i, t) for i, t in enumerate(study.searched) if "val/best_dice_mean" in t.metrics]
    if not tried:
        return None
    figure = _figure(height_in=2.6)
    panel, bars = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for state, colour, face in (("FINISHED", ARM_COLOURS[0], None), ("STOPPED", MUTED, "none")):
        points_of = [
            (i, 100 * t.metrics["val/best_dice_mean"]) for i, t in tried if t.status == state
        ]
        if points_of:
            label = "trained to the end" if state == "FINISHED" else "stopped early"
            panel.plot(
                *zip(*points_of, strict=True),
                "o",
                color=colour,
                mfc=face or colour,
                ms=4.5,
                label=label,
            )
    best = np.maximum.accumulate([100 * t.metrics["val/best_dice_mean"] for _, t in tried])
    panel.step([i for i, _ in tried], best, where="post", color=INK, lw=1, label="best so far")
    panel.axhline(best[0], color=BASELINE_COLOUR, lw=0.8, ls=":", label="baseline")
    panel.set(xlabel="trial, in the order tried", ylabel="validation mean Dice (points)")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.legend(frameon=False, fontsize=7)
    shares = sorted(study.importance.items(), key=lambda item: item[1])
    bars.barh(
        [name for name, _ in shares],
        [100 * share for _, share in shares],
        color=ARM_COLOURS[0],
        height=0.6,
    )
    bars.set_xlabel("importance (%)")
    bars.set_visible(bool(shares))  # too few trials do not tell
    return figure


def _figure(height_in):
    from matplotlib.figure import (
        Figure,
    )  # no pyplot: no global state, no display, safe in any thread

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def _arm_legend(figure, study, marker=None):
    from matplotlib.lines import Line2D

    style = {"lw": 2.1} if marker is None else {"lw": 0, "marker": marker, "ms": 6}
    handles = [
        Line2D([], [], color=colour, ls=_line_style(study, arm), label=_short(arm), **style)
        for arm, colour in sorted(
            arm_colours(study).items(), key=lambda item: list(study.arms).index(item[0])
        )
    ]
    longest = max(len(handle.get_label()) for handle in handles)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), 110 // (longest + 6))),
        frameon=False,
    )


FIGURES = {
    "differences": draw_differences,
    "doses": draw_doses,
    "search": draw_search,
    "curves": draw_curves,
    "cost": draw_cost,
    "cases": draw_cases,
}


def draw_all(study):
    """{name: Figure} of the pictures that this study has data for."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figures = {name: draw(study) for name, draw in FIGURES.items()}
        figures = {name: figure for name, figure in figures.items() if figure}
        for figure in figures.values():
            figure.draw_without_rendering()  # makes the ticks while the style holds
        return figures


STYLE = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "segmamba",
    "pdf.fonttype": 42,
}


def save_png(figure, path):
    """On white, at the resolution that journals ask of line art on a page (300 dpi)."""
    with replacing(path) as file:
        figure.savefig(file, dpi=300, format="png", facecolor="white")


def to_svg(figure, name):
    """An <svg> element for inlining: transparent, coloured by the page's variables, ids made unique by `name`, no address in it."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # the HTML parser knows both namespaces
    ids = {}  # numbered, since matplotlib derives some from positions whose last digit varies from run to run
    svg = re.sub(
        r'(\bid="|url\(#|href="#)([^")]+)',
        lambda m: f"{m[1]}{name}-{ids.setdefault(m[2], len(ids))}",
        svg,
    )
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"|<svg height="[^"]*"', "<svg", svg, count=1)
    for colour, variable in PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
