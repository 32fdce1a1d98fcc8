"""Planes of a volume with the outlines of segmentations, and figures that need no display."""

import numpy as np

from segmamba.data.labels import REGIONS, region_masks
from segmamba.files import replacing

REGION_COLOURS = {
    "ET": "#d55e00",
    "TC": "#f0e442",
    "WT": "#56b4e9",
}  # Okabe & Ito 2008: told apart by colour-blind readers


def draw_plane(panel, image, truth, prediction, axis, index, box):
    """One plane of `image` within `box`, with the outlines of both segmentations."""
    from contourpy import contour_generator
    from matplotlib.collections import LineCollection

    def cut(volume):
        return np.take(volume, index, axis=axis)[tuple(b for a, b in enumerate(box) if a != axis)].T

    inside = image[image != 0]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0, 1)
    panel.imshow(
        np.where(cut(image) == 0, low, cut(image)), cmap="gray", origin="lower", vmin=low, vmax=high
    )
    for labels, style, width in ((truth, "-", 1.6), (prediction, (0, (3, 2)), 1.1)):
        for region, mask in reversed(
            list(zip(REGIONS, region_masks(cut(labels)), strict=True))
        ):  # inner outlines lie on outer ones
            outlines = contour_generator(z=mask.astype(np.float32)).lines(
                0.5
            )  # what panel.contour draws, at a third of its time
            panel.add_collection(
                LineCollection(
                    outlines, colors=REGION_COLOURS[region], linewidths=width, linestyles=[style]
                ),
                autolim=False,
            )
    panel.invert_xaxis()
    panel.set(xticks=[], yticks=[])  # nobody sees them, but the layout would measure each
    panel.set_axis_off()


def surroundings(mask):
    """Slices of the mask's bounding box, wider by an eighth of each side of the volume."""
    where = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)
    ]
    margins = [n // 8 for n in mask.shape]
    return tuple(
        slice(max(0, w.min() - m), w.max() + 1 + m) if w.size else slice(None)
        for w, m in zip(where, margins, strict=True)
    )


def busiest_slices(mask):
    """The index along each axis whose slice holds most of the mask."""
    return [
        int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)
    ]


def add_outline_legend(figure):
    """Which colour is which region, and which line is truth or prediction."""
    handles = [_line(REGION_COLOURS[r], "-", r) for r in REGIONS] + [
        _line("0.4", "-", "truth"),
        _line("0.4", "--", "prediction"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def _line(colour, style, label):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, label=label)


def new_figure(**options):
    from matplotlib.figure import (
        Figure,
    )  # no pyplot: no global state, no display, safe in any thread

    return Figure(**options)


def save_figure(figure, path):
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
