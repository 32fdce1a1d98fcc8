"""One panel of a picture: a plane of an image with outlines or errors, its sides and its scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segmamba.data.label_sets import LabelSet, region_dict
from segmamba.pictures.palette import ERROR_COLOURS, REGION_COLOURS
from segmamba.pictures.view import PLANES, SIDES, CaseView, errors, window

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INNERMOST, WIDER = 1.3, 1.3
"""Width of the innermost outline, and by how much each further one is wider, in points: where two
outlines coincide, the outer one is seen on both sides of the inner one."""
ERROR_OPACITY = 0.7
MARGIN_IN = 0.07
"""Inches between what is written on a panel and its border."""
BAR_SHARE = 0.35
"""The longest share of a panel's width that the scale bar may take."""


def draw_image(panel: Axes, view: CaseView, modality: str | None, axis: int, index: int) -> None:
    """Draw one plane of an image on black; axes are in mm.

    Args:
        panel: What is drawn on.
        view: The case.
        modality: One of its images; None leaves the plane black.
        axis: The axis that the plane is perpendicular to.
        index: The plane's place along `axis`.
    """
    panel.set_facecolor("black")
    width_mm, height_mm = _size_mm(view, axis)
    if modality is not None:
        image = np.asarray(view.images[modality], np.float32)
        low, high = window(image)
        plane = _plane(image, axis, index)
        panel.imshow(
            np.where(plane == 0, low, plane),
            cmap="gray",
            origin="lower",
            vmin=low,
            vmax=high,
            extent=(0, width_mm, 0, height_mm),
            interpolation="nearest",
            aspect="auto",
        )
    panel.set(xticks=[], yticks=[])
    _fit(panel, width_mm, height_mm)
    for spine in panel.spines.values():
        spine.set_visible(False)


def write_place(panel: Axes, view: CaseView, axis: int, index: int) -> None:
    """Write where a plane lies: its sides, its place in mm and a scale.

    Args:
        panel: What `draw_image` drew on.
        view: The case.
        axis: The axis that the plane is perpendicular to.
        index: The plane's place along `axis`.
    """
    right, left, below, above = SIDES[axis]
    for x, y, letter in ((0, 0.5, left), (1, 0.5, right), (0.5, 0, below), (0.5, 1, above)):
        write(panel, x, y, letter, weight="bold")
    write(panel, 0, 0, f"{'xyz'[axis]} = {view.position_mm(axis, index):+.1f} mm")
    draw_scale(panel)


def draw_outlines(panel: Axes, view: CaseView, classes: np.ndarray, axis: int, index: int) -> None:
    """Draw the outlines of the regions of a segmentation; outer ones are wider and lie below.

    Args:
        panel: What `draw_image` drew on.
        view: The case.
        classes: Class numbers, uint8 (x, y, z).
        axis: The axis that the plane is perpendicular to.
        index: The plane's place along `axis`.
    """
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection

    plane = np.pad(_plane(classes, axis, index), 1)  # an outline at the border is closed, too
    pixel_mm = _pixel_mm(view, axis)
    masks = region_dict(plane, view.labels)
    for region, width in reversed(outline_widths(view.labels).items()):
        # What panel.contour draws, in a third of its time.
        contours = contour_generator(z=masks[region].astype(np.float32), line_type="Separate")
        lines = cast("list[np.ndarray]", contours.lines(0.5))
        panel.add_collection(
            LineCollection(
                [(line - 0.5) * pixel_mm for line in lines],
                colors=REGION_COLOURS[region],
                linewidths=width,
            ),
            autolim=False,
        )


def draw_errors(panel: Axes, view: CaseView, axis: int, index: int) -> None:
    """Colour where truth and prediction agree, and where and how they differ.

    Args:
        panel: What `draw_image` drew on.
        view: A case with both.
        axis: The axis that the plane is perpendicular to.
        index: The plane's place along `axis`.
    """
    from matplotlib.colors import to_rgba

    assert view.truth is not None and view.prediction is not None
    truth, prediction = (_plane(c, axis, index) for c in (view.truth, view.prediction))
    limits = panel.get_xlim(), panel.get_ylim()
    coloured = np.zeros((*truth.shape, 4))
    for name, mask in errors(truth, prediction).items():
        coloured[mask] = to_rgba(ERROR_COLOURS[name], ERROR_OPACITY)
    width_mm, height_mm = _size_mm(view, axis)
    panel.imshow(
        coloured,
        origin="lower",
        extent=(0, width_mm, 0, height_mm),
        interpolation="nearest",
        aspect="auto",
    )
    panel.set(xlim=limits[0], ylim=limits[1])


def outline_widths(labels: LabelSet) -> dict[str, float]:
    """How wide each region's outline is, in points; inner ones first.

    Args:
        labels: The label set.

    Returns:
        The widths of `labels.outlined`. A region that lies within no other has the width of the
        innermost one, unless it holds others.
    """
    depth: dict[str, int] = {}
    for region in labels.outlined:  # inner ones first, so that what a region holds is known
        held = [depth[r] + 1 for r in depth if labels.within[r] == region]
        depth[region] = max(held, default=0)
    return {region: INNERMOST + WIDER * steps for region, steps in depth.items()}


def title_of(modality: str | None, axis: int, layer: str = "") -> str:
    """Name a panel: its plane, its modality and what is drawn on it."""
    named = f"{PLANES[axis]} {modality}" if modality else PLANES[axis]
    return f"{named}: {layer}" if layer else named


def _plane(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """(rows, columns): rows from inferior or posterior, columns from the patient's left."""
    return np.take(volume, index, axis=axis).T


def _pixel_mm(view: CaseView, axis: int) -> list[float]:
    """Width and height of a plane's pixel."""
    return [side for a, side in enumerate(view.spacing_mm) if a != axis]


def _size_mm(view: CaseView, axis: int) -> tuple[float, float]:
    """Width and height of a plane."""
    pixels = [n for a, n in enumerate(view.shape) if a != axis]
    width, height = (n * side for n, side in zip(pixels, _pixel_mm(view, axis), strict=True))
    return width, height


def _fit(panel: Axes, width_mm: float, height_mm: float) -> None:
    """Show a plane whole, in the middle of the panel, with pixels of their true shape.

    The patient's right, x, is on the left, and so is the front in the sagittal plane.
    """
    mm = max(width_mm / panel.bbox.width, height_mm / panel.bbox.height)  # of a dot
    across, up = mm * panel.bbox.width / 2, mm * panel.bbox.height / 2
    panel.set(
        xlim=(width_mm / 2 + across, width_mm / 2 - across),
        ylim=(height_mm / 2 - up, height_mm / 2 + up),
    )


def write(panel: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Write on an image, legible on black and on white.

    Args:
        panel: What is written on.
        x: 0, 0.5 or 1: at the left, in the middle, at the right.
        y: The same from bottom to top.
        text: What is written, as it stands.
        options: Further ones of the text.
    """
    from matplotlib.patheffects import withStroke

    panel.annotate(
        text,
        (x, y),
        xycoords="axes fraction",
        xytext=(72 * MARGIN_IN * (1 - 2 * x), 72 * MARGIN_IN * (1 - 2 * y)),
        textcoords="offset points",
        color="white",
        fontsize=7.5,
        ha={0: "left", 0.5: "center", 1: "right"}[x],
        va={0: "bottom", 0.5: "center", 1: "top"}[y],
        parse_math=False,
        path_effects=[withStroke(linewidth=1.6, foreground="black")],
        **options,
    )


def draw_scale(panel: Axes) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten mm at the lower right, its length above it."""
    from matplotlib.patheffects import withStroke

    left, right = panel.get_xlim()
    span_mm = left - right
    longest = BAR_SHARE * span_mm
    power = 10.0 ** np.floor(np.log10(longest))
    length_mm = max(n * power for n in (1, 2, 5) if n * power <= longest)
    dots = 72 / panel.figure.dpi  # points of a dot
    across, up = (MARGIN_IN * 72 / dots / side for side in (panel.bbox.width, panel.bbox.height))
    panel.plot(
        [1 - across - length_mm / span_mm, 1 - across],
        [up, up],
        transform=panel.transAxes,
        color="white",
        linewidth=1.6,
        solid_capstyle="butt",
        path_effects=[withStroke(linewidth=2.8, foreground="black")],
        label="scale",
    )
    write(panel, 1, 0, f"{length_mm:g} mm\n")
