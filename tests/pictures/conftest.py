"""A small case whose truth and prediction differ in known voxels."""

import numpy as np
import pytest

from segmamba.data.label_sets import GLIOMA
from segmamba.pictures.view import CaseView

SHAPE, SPACING_MM = (20, 24, 12), (1.0, 1.0, 2.0)
NCR, ED, ET = (GLIOMA.number(name) for name in ("NCR", "ED", "ET"))


def made_view(**changes):
    """ET fills the core, so that ET and TC coincide; the prediction lies one voxel to the right."""
    rng = np.random.default_rng(0)
    image = np.zeros(SHAPE, np.float32)
    image[2:18, 2:22, 1:11] = rng.uniform(50, 150, (16, 20, 10))
    truth = np.zeros(SHAPE, np.uint8)
    truth[4:14, 6:18, 2:9] = ED
    truth[6:11, 8:14, 2:7] = ET
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-10, -30, 5)
    fields = {
        "heading": "case",
        "images": {"T1ce": image, "FLAIR": image[::-1].copy()},
        "affine": affine,
        "labels": GLIOMA,
        "truth": truth,
        "prediction": np.roll(truth, 1, axis=0),
    }
    return CaseView(**fields | changes)


@pytest.fixture
def view():
    return made_view()
