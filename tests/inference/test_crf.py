"""The CRF against its equations, and what it does to boundaries."""

import math

import numpy as np
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.label_sets import GLIOMA
from segmamba.inference.crf import REACH, mean_field, refine
from segmamba.inference.decide import region_probabilities
from segmamba.models.outputs import Channels

CLASSES, REGIONS = (Channels(GLIOMA, are_regions) for are_regions in (False, True))


def brute_force_step(p, image, config):
    """One mean-field update by the equations, voxel pair by voxel pair. p: (K, x, y, z)."""
    shape = p.shape[1:]
    offsets = list(np.ndindex(*(2 * REACH + 1,) * 3))
    gauss = {
        tuple(np.array(o) - REACH): math.exp(
            -((np.array(o) - REACH) ** 2).sum() / (2 * config.crf_reach**2)
        )
        for o in offsets
    }
    norm = sum(gauss.values()) - 1
    out = np.zeros_like(p)
    for i in np.ndindex(*shape):
        message = np.zeros(len(p))
        for offset, g in gauss.items():
            j = tuple(np.add(i, offset))
            if any(offset) and all(0 <= a < n for a, n in zip(j, shape, strict=True)):
                alike = math.exp(
                    -((image[(slice(None), *i)] - image[(slice(None), *j)]) ** 2).mean()
                    / (2 * config.crf_contrast**2)
                )
                weight = config.crf_smoothness + config.crf_appearance * alike
                message += g / norm * weight * p[(slice(None), *j)]
        q = p[(slice(None), *i)] * np.exp(message)
        out[(slice(None), *i)] = q / q.sum()
    return out


def test_a_step_equals_the_equations_voxel_by_voxel():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), (5, 4, 6)).transpose(3, 0, 1, 2)
    image = rng.normal(size=(4, 5, 4, 6))
    config = PostprocessConfig(
        crf_steps=1, crf_smoothness=0.7, crf_appearance=1.3, crf_reach=1.1, crf_contrast=0.8
    )
    ours = mean_field(torch.from_numpy(p), torch.from_numpy(image), config)
    assert np.allclose(ours.numpy(), brute_force_step(p, image, config), atol=1e-9)


def half_and_half():
    """A volume whose images have an edge at x = 8, and a prediction.

    The prediction's boundary lies a voxel beside the edge and is unsure there.
    """
    image = torch.zeros(4, 16, 16, 16)
    image[:, 8:] = 2
    tumour = torch.sigmoid((torch.arange(16.0) - 8.5) * 1.2)[:, None, None].expand(16, 16, 16)
    p = torch.zeros(4, 16, 16, 16)
    p[0], p[2] = 1 - tumour, tumour
    return p, image


def test_a_boundary_moves_to_the_edge_of_the_images():
    p, image = half_and_half()
    before = (p.argmax(0) == 2)[:, 8, 8]
    config = PostprocessConfig(crf_steps=10, crf_smoothness=0.0, crf_appearance=6.0)
    after = (refine(p, CLASSES, image, config).argmax(0) == 2)[:, 8, 8]
    assert before.nonzero()[0] == 9 and after.nonzero()[0] == 8


def test_probabilities_stay_probabilities_and_certain_voxels_stay():
    p, image = half_and_half()
    q = refine(p, CLASSES, image, PostprocessConfig(crf_steps=5))
    assert torch.allclose(q.sum(0), torch.ones(16, 16, 16), atol=1e-5) and (q >= 0).all()
    assert torch.equal(q[:, :2], p[:, :2]), "no tumour near: outside the box that is worked on"


def test_without_any_tumour_nothing_is_done():
    p = torch.zeros(4, 8, 8, 8)
    p[0] = 1
    assert refine(p, CLASSES, torch.randn(4, 8, 8, 8), PostprocessConfig(crf_steps=3)) is p


def test_regions_are_refined_as_the_classes_they_mean():
    p, image = half_and_half()
    config = PostprocessConfig(crf_steps=3)
    q = refine(region_probabilities(p, GLIOMA), REGIONS, image, config)
    assert torch.allclose(
        q, region_probabilities(refine(p, CLASSES, image, config), GLIOMA), atol=1e-4
    )
    et, tc, wt = q
    assert (et <= tc + 1e-6).all() and (tc <= wt + 1e-6).all()


def test_a_volume_thinner_than_the_reach_is_no_problem():
    p = torch.rand(4, 1, 2, 9).softmax(0)
    assert mean_field(p, torch.randn(4, 1, 2, 9), PostprocessConfig(crf_steps=2)).isfinite().all()
