"""The fingerprint of a data set as files: what was counted, and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segmamba.data.labels import MODALITIES
from segmamba.data.summary import Fingerprint, MeasuredCase
from segmamba.files import write_json
from segmamba.pictures.figures import legible, new_figure, save_figure, shortened
from segmamba.pictures.palette import COLOURS_ON_WHITE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


FAR = 5
"""How many times the usual intensity is far from it: other units, or no skull-stripping."""
MOST_NAMED = 10
LONGEST_NAME = 27
"""Characters of a case's name that fit across a panel."""
NAME_PT, PANEL_PT = 8.0, 180.0
"""Points of a line of names, and the height of a panel."""


def write_summary(
    folder: str | Path, fingerprint: Fingerprint, measured: Sequence[MeasuredCase]
) -> list[Path]:
    """Write the fingerprint and its pictures.

    Args:
        folder: Where the files go; made if need be.
        fingerprint: As `summarise` gives it.
        measured: The measured cases.

    Returns:
        The paths of summary.json, intensities.png, grids.png and, where there is a tumour,
        volumes.png.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        write_json(folder / "summary.json", fingerprint),
        draw_intensities(folder / "intensities.png", measured),
        draw_grids(folder / "grids.png", measured),
    ]
    volumes_ml = [case.volumes_ml for case in measured if case.volumes_ml is not None]
    if any(volumes["WT"] for volumes in volumes_ml):
        written.append(draw_volumes(folder / "volumes.png", volumes_ml))
    return written


def draw_volumes(path: Path, volumes_ml: Sequence[dict[str, float]]) -> Path:
    """Draw how the volumes of the regions are spread.

    Left: the volume of each region, a dot for a case, on a log scale. Right: a histogram of ET's
    share of the core.

    Args:
        path: The picture to write (PNG).
        volumes_ml: {region: millilitres} of each labelled case.

    Returns:
        The path.
    """
    figure = _new_figure()
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_region_volumes(left, volumes_ml)
    shares = [volumes["ET"] / volumes["TC"] for volumes in volumes_ml if volumes["TC"] > 0]
    right.hist(shares, bins=np.linspace(0, 1, 21), color=COLOURS_ON_WHITE["ET"])
    right.set(xlabel="ET / TC", ylabel="cases", title="enhancing share of the core", xlim=(0, 1))
    right.yaxis.get_major_locator().set_params(integer=True)
    return _save(figure, path)


def _draw_region_volumes(panel: Axes, volumes_ml: Sequence[dict[str, float]]) -> None:
    from matplotlib.ticker import LogFormatter

    count = len(volumes_ml)
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, count)
    regions = tuple(volumes_ml[0])
    for place, region in enumerate(regions):
        values = np.array([volumes[region] for volumes in volumes_ml])
        some = values > 0
        panel.scatter(
            place + jitter[some],
            values[some],
            s=12,
            alpha=0.6,
            color=COLOURS_ON_WHITE[region],
            linewidths=0,
        )
        if (median := np.median(values)) > 0:  # that of all cases, as the table gives it
            panel.hlines(median, place - 0.35, place + 0.35, color="black", linewidth=1.5)
    without = {region: sum(volumes[region] == 0 for volumes in volumes_ml) for region in regions}
    panel.set_xticks(
        range(len(regions)),
        [f"{region}\n{without[region]} of {count} cases without" for region in regions],
        fontsize=8,
    )
    panel.set(
        yscale="log",
        ylabel="volume (ml)",
        title="regions, a dot for a case; line: median of all cases",
        xlim=(-0.6, len(regions) - 0.4),
    )
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def draw_intensities(path: Path, cases: Sequence[MeasuredCase]) -> Path:
    """Draw the range of intensities of each case.

    A panel for each modality and a line for each case, from its 0.5th to its 99.5th percentile with
    a dot at the median. Cases far from the others are named, and where one would squash the rest,
    the axis is logarithmic above the usual values.

    Args:
        path: The picture to write (PNG).
        cases: The measured cases.

    Returns:
        The path.
    """
    figure = _new_figure()
    for panel, modality in zip(figure.subplots(1, len(MODALITIES)), MODALITIES, strict=True):
        held = sorted(
            (case for case in cases if modality in case.intensities),
            key=lambda case: case.intensities[modality]["median"],
        )
        rows = [case.intensities[modality] for case in held]
        places = np.arange(len(rows))
        panel.hlines(
            places,
            [row["p0.5"] for row in rows],
            [row["p99.5"] for row in rows],
            color="#9ecae1",
            linewidth=max(0.5, min(6, 150 / max(len(rows), 1))),
        )
        panel.plot([row["median"] for row in rows], places, ".", color="black", markersize=4)
        panel.set(
            title=modality, xlabel="intensity in the brain", yticks=[], ylim=(-0.8, len(rows) - 0.2)
        )
        _show_far_ones(panel, [case.id for case in held], rows)
    figure.axes[0].set_ylabel(f"{len(cases)} cases, 0.5 % - median - 99.5 %", fontsize=9)
    return _save(figure, path)


def _show_far_ones(panel: Axes, ids: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Name the cases whose median is FAR times that of the others, or a share of it."""
    if not rows:
        return
    middle = float(np.median([row["median"] for row in rows]))
    far = [
        place
        for place, row in enumerate(rows)
        if middle > 0 and not middle / FAR <= row["median"] <= middle * FAR
    ]
    apart = len(rows) * NAME_PT / PANEL_PT
    named = far[-MOST_NAMED:]
    # From the top down, each at its case's bar or below the name above it; then up from the axis.
    heights: list[float] = []
    for place in reversed(named):
        heights.append(min([float(place), *(height - apart for height in heights[-1:])]))
    least = apart
    for at in reversed(range(len(heights))):
        heights[at] = max(heights[at], least)
        least = heights[at] + apart
    for place, height in zip(reversed(named), heights, strict=True):
        panel.annotate(
            legible(shortened(ids[place], LONGEST_NAME)),
            (0.98, height),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="top",
            xytext=(0, -3),
            textcoords="offset points",
            fontsize=7,
            parse_math=False,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5},
        ).set_in_layout(False)
    ends = [row["p99.5"] for row in rows]
    if middle > 0 and max(ends) > FAR * float(np.median(ends)):
        panel.set_xscale("symlog", linthresh=middle)


def draw_grids(path: Path, cases: Sequence[MeasuredCase]) -> Path:
    """Draw how long the volumes and the brains in them are.

    Args:
        path: The picture to write (PNG).
        cases: The measured cases.

    Returns:
        The path.
    """
    figure = _new_figure()
    titles = ("x, left to right", "y, back to front", "z, bottom to top")
    for axis, (panel, title) in enumerate(zip(figure.subplots(1, 3), titles, strict=True)):
        volume_mm = [case.shape[axis] * case.spacing_mm[axis] for case in cases]
        brain_mm = [case.brain_mm[axis] for case in cases]
        bins = np.linspace(0.9 * min(brain_mm), 1.02 * max(volume_mm), 40)
        panel.hist(volume_mm, bins=bins, color="0.75", label="volume")
        panel.hist(brain_mm, bins=bins, color="#56b4e9", alpha=0.8, label="brain in it")
        panel.set(title=title, xlabel="mm")
        panel.yaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_ylabel("cases")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def _new_figure() -> Figure:
    return new_figure(figsize=(9, 3.6), layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    save_figure(figure, path)
    return path
