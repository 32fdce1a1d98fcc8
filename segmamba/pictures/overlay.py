"""Pictures of cases: three planes through the tumour, truth beside prediction, and the errors."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.data.label_sets import LabelSet
from segmamba.pictures.figures import legible, new_figure, png_of, save_figure
from segmamba.pictures.palette import DARK, ERROR_COLOURS, REGION_COLOURS, Theme
from segmamba.pictures.panel import (
    draw_errors,
    draw_image,
    draw_outlines,
    outline_widths,
    title_of,
    write,
    write_place,
)
from segmamba.pictures.view import CaseView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = tuple[str | None, str]
"""A modality, and what is drawn on it."""
PLAIN, TRUTH, PREDICTION, ERRORS = "", "truth", "prediction", "errors"
"""What is drawn on the image of a panel."""
COLUMN_IN, GAP_IN, TITLE_IN, HEADING_IN, LEGEND_IN = 2.7, 0.06, 0.22, 0.32, 0.36
"""Inches: a panel's width, between panels, above each, above each case, below all."""
LINE_IN, CHARACTER_IN = 0.18, 0.135
"""Inches of a further line of a heading, and of a wide character in it."""
LEGEND_EDGE = 1.0
"""Points of black around what the legend shows: on a white page yellow is hardly seen."""
ROW_ASPECT = (0.4, 1.4)
"""The least and the greatest height of a row of panels, in widths."""
THUMBNAIL_IN, THUMBNAIL_DPI = 3.2, 100
ROWS = (2, 1, 0)
"""The axes that the rows cut: axial, coronal, sagittal."""


def draw_cases(
    path: Path,
    views: Sequence[CaseView],
    theme: Theme = DARK,
    columns: Sequence[Column] | None = None,
) -> None:
    """Draw cases below each other, as a PNG.

    A row is a plane. Its panels are the image; truth, prediction and errors where there are both;
    else what there is, on two modalities. The view is radiological.

    Args:
        path: The file to write.
        views: The cases; at least one, all of one label set.
        theme: What surrounds the panels.
        columns: What is shown instead.
    """
    save_figure(picture(views, theme, columns), path)


def picture(
    views: Sequence[CaseView], theme: Theme = DARK, columns: Sequence[Column] | None = None
) -> Figure:
    """Make the figure of `draw_cases`."""
    cells = [columns or _columns(view) for view in views]
    heights = [[COLUMN_IN * _aspect(view, axis) for axis in ROWS] for view in views]
    width = max(map(len, cells)) * (COLUMN_IN + GAP_IN) + GAP_IN
    headings = [textwrap.fill(legible(view.heading), int(width / CHARACTER_IN)) for view in views]
    headings_in = [HEADING_IN + LINE_IN * heading.count("\n") for heading in headings]
    height = LEGEND_IN + sum(headings_in) + sum(h + TITLE_IN for rows in heights for h in rows)
    figure = new_figure(figsize=(width, height), facecolor=theme.page)
    top = height
    for view, row_cells, rows, heading, heading_in in zip(
        views, cells, heights, headings, headings_in, strict=True
    ):
        figure.text(
            GAP_IN / width,
            1 - (height - top + 0.06) / height,
            heading,
            color=theme.ink,
            fontsize=11,
            va="top",
            parse_math=False,
        )
        top -= heading_in
        centre = view.centre()
        for axis, row_in in zip(ROWS, rows, strict=True):
            top -= TITLE_IN + row_in
            for place, (modality, layer) in enumerate(row_cells):
                left = GAP_IN + place * (COLUMN_IN + GAP_IN)
                panel = figure.add_axes(
                    (left / width, top / height, COLUMN_IN / width, row_in / height)
                )
                _draw(panel, view, modality, layer, axis, centre[axis])
                panel.set_title(
                    title_of(modality, axis, layer), fontsize=8.5, color=theme.ink, pad=3
                )
    add_legend(figure, views, theme)
    return figure


def thumbnail(view: CaseView) -> bytes:
    """Draw the three planes of the preferred modality with the prediction, or without any.

    Args:
        view: The case.

    Returns:
        A PNG.
    """
    heights = [THUMBNAIL_IN * _aspect(view, axis) for axis in ROWS]
    size = (3 * THUMBNAIL_IN + 2 * GAP_IN, max(heights))
    figure = new_figure(figsize=size, dpi=THUMBNAIL_DPI, facecolor=DARK.page)
    modality, centre = next(iter(view.shown), None), view.centre()
    for place, axis in enumerate(ROWS):
        left = place * (THUMBNAIL_IN + GAP_IN) / size[0]
        panel = figure.add_axes((left, 0, THUMBNAIL_IN / size[0], 1))
        layer = PLAIN if view.prediction is None else PREDICTION
        _draw(panel, view, modality, layer, axis, centre[axis])
        write(panel, 0, 1, title_of(modality, axis))
    return png_of(figure)


def _columns(view: CaseView) -> list[Column]:
    shown: list[str | None] = [*view.shown] or [None]
    first, second = shown[0], shown[min(1, len(shown) - 1)]
    images = [(modality, PLAIN) for modality in dict.fromkeys((first, second)) if modality]
    if view.truth is not None and view.prediction is not None:
        return [*images, (first, TRUTH), (first, PREDICTION), (first, ERRORS)]
    layer = TRUTH if view.truth is not None else PREDICTION
    return [*images, *((m, layer) for m in dict.fromkeys((first, second)))]


def _draw(
    panel: Axes, view: CaseView, modality: str | None, layer: str, axis: int, index: int
) -> None:
    draw_image(panel, view, modality, axis, index)
    write_place(panel, view, axis, index)
    if layer == ERRORS:
        draw_errors(panel, view, axis, index)
    classes = {TRUTH: view.truth, PREDICTION: view.prediction}.get(layer)
    if classes is not None:
        draw_outlines(panel, view, classes, axis, index)


def _aspect(view: CaseView, axis: int) -> float:
    """Height of a row of panels in widths."""
    width, height = (
        n * s for a, (n, s) in enumerate(zip(view.shape, view.spacing_mm, strict=True)) if a != axis
    )
    return min(max(height / width, ROW_ASPECT[0]), ROW_ASPECT[1])


def add_legend(figure: Figure, views: Sequence[CaseView], theme: Theme) -> None:
    """Say which colour is which region, and which is which error."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=REGION_COLOURS[region],
            linewidth=width,
            label=region,
            path_effects=[withStroke(linewidth=width + LEGEND_EDGE, foreground="black")],
        )
        for region, width in outline_widths(_labels(views)).items()
    ]
    if any(view.truth is not None and view.prediction is not None for view in views):
        handles += [
            Patch(facecolor=colour, edgecolor="black", linewidth=LEGEND_EDGE / 2, label=name)
            for name, colour in ERROR_COLOURS.items()
        ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        facecolor=theme.page,
    )


def _labels(views: Sequence[CaseView]) -> LabelSet:
    return views[0].labels
