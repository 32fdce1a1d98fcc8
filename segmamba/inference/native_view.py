"""A predicted case on the grid of its files, as pictures and the viewer show it."""

from __future__ import annotations

import numpy as np

from segmamba.data.case import Case
from segmamba.data.label_sets import LabelSet, readable_as, translation
from segmamba.data.volumes import read_case
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
    truth = reading.label
    if truth is not None and not readable_as(case.label_set, labels):
        truth = None
    elif truth is not None:
        truth = np.array(translation(case.label_set, labels), np.uint8)[truth]
    images = {
        modality: channel
        for modality, channel in reading.channels.items()
        if channel.shape == classes.shape and channel.any()
    }
    return CaseView(case.id, images, reading.affine, labels, truth, classes)
