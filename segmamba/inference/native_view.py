"""A predicted case on the grid of its files, as pictures and the viewer show it."""

from __future__ import annotations

import numpy as np

from segmamba.data.case import Case
from segmamba.data.label_sets import LabelSet, readable_as, translation
from segmamba.data.labels import to_classes
from segmamba.data.volumes import FileGrid, grid_finding, read_case, read_file
from segmamba.errors import UserError
from segmamba.pictures.view import CaseView


def native_view(case: Case, classes: np.ndarray, labels: LabelSet) -> CaseView:
    """Read the images of a case once more, and its true segmentation where it has a sound one.

    What networks see lies on the working grid, which may be coarser.

    Args:
        case: The case; its images have been read without an error before.
        classes: Its prediction, class numbers, uint8 (x, y, z), on the source's grid.
        labels: The label set of `classes`.

    Returns:
        The case without a heading. A modality that it lacks is left out.

    Raises:
        UserError: Its images are gone.
    """
    reading = read_case(case)
    if reading.affine is None:
        raise UserError(f"{case.id}: its images changed while it was predicted; predict it again")
    images = {
        modality: channel
        for modality, channel in reading.channels.items()
        if channel.shape == classes.shape and channel.any()
    }
    truth = _as_set(reading.label, case, labels)
    return CaseView(case.id, images, reading.affine, labels, truth, classes)


def true_classes(case: Case, labels: LabelSet, grid: FileGrid) -> np.ndarray | None:
    """Read the true segmentation of a case alone.

    Args:
        case: The case.
        labels: The label set that it is read as.
        grid: Where the voxels of its prediction lie.

    Returns:
        Class numbers, uint8 (x, y, z); None where there is none, it is damaged, lies on another
        grid, or lacks classes of the set.
    """
    if case.label is None:
        return None
    try:
        volume = read_file(case.label, case.header)
        if grid_finding(case.id, volume.grid(case.label), grid):
            return None
        classes = to_classes(volume.array, case.convention, case.label, case.label_set)
        return _as_set(classes, case, labels)
    except UserError:
        return None  # `segmamba data check` tells; a prediction needs no truth


def _as_set(classes: np.ndarray | None, case: Case, labels: LabelSet) -> np.ndarray | None:
    if classes is None or not readable_as(case.label_set, labels):
        return None
    return np.array(translation(case.label_set, labels), np.uint8)[classes]
