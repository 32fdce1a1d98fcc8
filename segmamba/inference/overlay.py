"""Pictures of a prediction: three planes through the tumour with the outlines of ET, TC and WT."""

import io

import numpy as np
import torch

from segmamba.data.labels import MODALITIES, REGIONS
from segmamba.inference.grids import to_source
from segmamba.pictures import REGION_COLOURS, busiest_slices, draw_plane, new_figure, save_figure

PLANES = ("sagittal", "coronal", "axial")
THUMBNAIL_DPI = 60


def draw_overlay(path, case_id, prepared, classes):
    """T1ce and FLAIR of a PreparedScan, with `classes` (x, y, z) on the source's grid. Radiological view: the patient's right is on the left."""
    figure = new_figure(figsize=(9, 6.4), layout="constrained")
    figure.suptitle(case_id if classes.any() else f"{case_id}: no tumour found", fontsize=11)
    _draw_rows(figure.subplots(2, 3), ("T1ce", "FLAIR"), prepared, classes)
    handles = [_line(region) for region in REGIONS]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)


def thumbnail(prepared, classes):
    """The three planes on T1ce alone, as the bytes of a small PNG."""
    figure = new_figure(figsize=(9, 3), layout="constrained", facecolor="black")
    _draw_rows(figure.subplots(1, 3)[None], ("T1ce",), prepared, classes, titles=False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=THUMBNAIL_DPI, format="png")
    return picture.getvalue()


def _draw_rows(panels, modalities, prepared, classes, *, titles=True):
    spacing_mm = min(prepared.images)
    image = to_source(
        torch.from_numpy(np.array(prepared.images[spacing_mm])).float(),
        prepared.grids[spacing_mm],
        prepared.box,
    ).numpy()
    inside = classes[prepared.box]
    shown = (
        inside > 0 if inside.any() else image[0] != 0
    )  # without a tumour: through the middle of the brain
    centre, box = busiest_slices(shown), tuple(slice(None) for _ in range(3))
    for row, modality in zip(panels, modalities, strict=True):
        for axis, panel in enumerate(row):
            draw_plane(
                panel,
                image[MODALITIES.index(modality)],
                inside,
                np.zeros_like(inside),
                axis,
                centre[axis],
                box,
            )
            if titles:
                panel.set_title(f"{modality}, {PLANES[axis]}", fontsize=9)


def _line(region):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=REGION_COLOURS[region], label=region)
