"""Other people's scorers, for agreement only."""

import warnings

import numpy as np
import pytest

from segmamba.evaluation.hausdorff import surface_scores


def surface_distance_hd95_mm(pred, truth, spacing_mm):
    """HD95 of two masks that are not empty, by DeepMind's surface-distance.

    Skips the test where that is not installed.
    """
    np.Inf = np.inf  # surface-distance 0.1 is older than NumPy 2
    metrics = pytest.importorskip("surface_distance.metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # and than SciPy's present names
        return metrics.compute_robust_hausdorff(
            metrics.compute_surface_distances(truth, pred, spacing_mm), 95
        )


def hd95_mm(pred, truth, spacing_mm, labels):
    """The product's HD95 by region."""
    scores = surface_scores(pred, truth, spacing_mm, labels)
    return {region: scores[f"hd95_mm_{region}"] for region in labels.regions}
