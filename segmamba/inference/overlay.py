"""Pictures of a prediction: three planes through the tumour with the outlines of the regions."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from segmamba.data.label_sets import REGION_COLOURS, LabelSet
from segmamba.data.labels import MODALITIES
from segmamba.inference.grids import to_source
from segmamba.pictures import busiest_slices, draw_plane, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

    from segmamba.inference.prepared_scan import PreparedScan

SHOWN = ("T1ce", "FLAIR", "T2", "T1")
"""The modalities in the order in which they are preferred."""
PLANES = ("sagittal", "coronal", "axial")
THUMBNAIL_DPI = 60


def draw_overlay(
    path: Path, case_id: str, prepared: PreparedScan, classes: np.ndarray, labels: LabelSet
) -> None:
    """Draw T1ce and FLAIR of a case with its segmentation, as a PNG; others where it lacks them.

    The view is radiological: the patient's right is on the left.

    Args:
        path: The file to write.
        case_id: The title.
        prepared: The images of the case.
        classes: Class numbers, uint8 (x, y, z), on the source's grid.
        labels: The label set of `classes`.
    """
    figure = new_figure(figsize=(9, 6.4), layout="constrained")
    figure.suptitle(case_id if classes.any() else f"{case_id}: no tumour found", fontsize=11)
    _draw_rows(figure.subplots(2, 3), prepared, classes, labels, titles=True)
    handles = [_line(region) for region in labels.outlined]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    save_figure(figure, path)


def thumbnail(prepared: PreparedScan, classes: np.ndarray, labels: LabelSet) -> bytes:
    """Draw the three planes on T1ce alone.

    Args:
        prepared: The images of the case.
        classes: Class numbers, uint8 (x, y, z), on the source's grid.
        labels: The label set of `classes`.

    Returns:
        A small PNG.
    """
    figure = new_figure(figsize=(9, 3), layout="constrained", facecolor="black")
    _draw_rows(figure.subplots(1, 3)[None], prepared, classes, labels, titles=False)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=THUMBNAIL_DPI, format="png")
    return picture.getvalue()


def _draw_rows(
    panels: Iterable[Iterable[Axes]],
    prepared: PreparedScan,
    classes: np.ndarray,
    labels: LabelSet,
    *,
    titles: bool,
) -> None:
    """One row a modality, one column a plane."""
    spacing_mm = min(prepared.images)
    image = to_source(
        torch.from_numpy(np.array(prepared.images[spacing_mm])).float(),
        prepared.grids[spacing_mm],
        prepared.box,
    ).numpy()
    inside = classes[prepared.box]
    # without a tumour: through the middle of the brain
    shown = inside > 0 if inside.any() else _brain(image)
    centre, box = busiest_slices(shown), (slice(None),) * 3
    nothing = np.zeros_like(inside)
    held = sorted(SHOWN, key=lambda modality: not image[MODALITIES.index(modality)].any())
    for row, modality in zip(panels, held, strict=False):
        channel = image[MODALITIES.index(modality)]
        for axis, panel in enumerate(row):
            draw_plane(panel, channel, inside, nothing, labels, axis, centre[axis], box)
            if titles:
                panel.set_title(f"{modality}, {PLANES[axis]}", fontsize=9)


def _brain(image: np.ndarray) -> np.ndarray:
    """bool (x, y, z): where the first modality that the case has is not 0."""
    return next((channel != 0 for channel in image if channel.any()), image[0] != 0)


def _line(region: str) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=REGION_COLOURS[region], label=region)
