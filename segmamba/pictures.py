"""Planes of a volume with the outlines of segmentations, and figures that need no display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from segmamba.data.label_sets import REGION_COLOURS, LabelSet, region_dict
from segmamba.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Box = tuple[slice, ...]
"""Slices along x, y and z."""


def draw_plane(
    panel: Axes,
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    labels: LabelSet,
    axis: int,
    index: int,
    box: Box,
) -> None:
    """Draw one plane of an image with the outlines of two segmentations.

    Args:
        panel: What is drawn on.
        image: Float (x, y, z); 0 is background.
        truth: Class numbers, uint8 (x, y, z); its outlines are solid.
        prediction: The same; its outlines are dashed.
        labels: The label set of both.
        axis: The axis that the plane is perpendicular to.
        index: The plane's place along `axis`.
        box: What of the plane is drawn.
    """
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection

    def cut(volume: np.ndarray) -> np.ndarray:
        return np.take(volume, index, axis=axis)[tuple(b for a, b in enumerate(box) if a != axis)].T

    inside = image[image != 0]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0, 1)
    panel.imshow(
        np.where(cut(image) == 0, low, cut(image)), cmap="gray", origin="lower", vmin=low, vmax=high
    )
    for classes, style, width in ((truth, "-", 1.6), (prediction, (0, (3, 2)), 1.1)):
        if min(cut(classes).shape) < 2:
            continue  # a line of voxels has no outline
        masks = region_dict(cut(classes), labels)
        for region in reversed(labels.outlined):  # inner outlines lie on outer ones
            if min(masks[region].shape) < 2:
                continue  # a single row of voxels has no outline
            # What panel.contour draws, in a third of its time.
            contours = contour_generator(z=masks[region].astype(np.float32), line_type="Separate")
            outlines = cast("list[np.ndarray]", contours.lines(0.5))
            panel.add_collection(
                LineCollection(
                    outlines, colors=REGION_COLOURS[region], linewidths=width, linestyles=[style]
                ),
                autolim=False,
            )
    panel.invert_xaxis()
    panel.set(xticks=[], yticks=[])  # nobody sees them, but the layout would measure each
    panel.set_axis_off()


def surroundings(mask: np.ndarray) -> Box:
    """Return the mask's bounding box, wider by an eighth of each side of the volume.

    Args:
        mask: Bool (x, y, z).

    Returns:
        The box; the whole volume for an empty mask.
    """
    places = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)
    ]
    margins = [n // 8 for n in mask.shape]
    return tuple(
        slice(max(0, place.min() - margin), place.max() + 1 + margin) if place.size else slice(None)
        for place, margin in zip(places, margins, strict=True)
    )


def busiest_slices(mask: np.ndarray) -> list[int]:
    """Return, for each axis, the index of the slice that holds most of a mask (x, y, z)."""
    return [
        int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)
    ]


def add_outline_legend(figure: Figure, labels: LabelSet) -> None:
    """Say which colour is which region, and which line is truth or prediction."""
    handles = [_line(REGION_COLOURS[region], "-", region) for region in labels.outlined]
    handles += [_line("0.4", "-", "truth"), _line("0.4", "--", "prediction")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _line(colour: str, style: Literal["-", "--"], label: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, label=label)


def new_figure(**options: Any) -> Figure:
    """Make a matplotlib figure without pyplot: no global state, no display, safe in any thread.

    Args:
        options: What matplotlib's Figure takes.
    """
    from matplotlib.figure import Figure

    return Figure(**options)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, which is there whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
