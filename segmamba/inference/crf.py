"""Boundaries moved to the images' edges: mean-field inference in a locally connected CRF with intensity priors.

The energy is that of Kraehenbuehl & Koltun (2011), equations 1 and 3, with Potts compatibility; the kernels end at 2 voxels, as in
ConvCRF (Teichmann & Cipolla 2018), so that a message is 124 shifted products instead of a lattice. Runs alike on CPU and GPU.

Legend: K classes, C modalities, (x, y, z) the volume; q the mean field, psi the unary energy -log p.
"""

import itertools
import math

import torch

from segmamba.data.labels import CLASSES
from segmamba.inference.decide import class_probabilities, region_probabilities

REACH = 2  # voxels in each direction; with the default standard deviation of 1.5 the kernel has fallen to 0.41 there
UNSURE = 0.01  # probability of tumour from which a voxel takes part: below it no message turns the decision
FLOOR = 1e-6  # smallest probability: psi stays finite
HALF = [
    o for o in itertools.product(range(-REACH, REACH + 1), repeat=3) if o > (0, 0, 0)
]  # the other half is their mirror image


@torch.inference_mode()
def refine(probability, channels, image, config):
    """Probabilities (K, x, y, z) after `crf_steps` mean-field steps, in the same channels; `config` is a PostprocessConfig.

    image: float (C, x, y, z), z-scored, on the same grid and device.
    """
    classes = probability if channels == CLASSES else class_probabilities(probability)
    box = _unsure_box(classes[0])
    if box is None:
        return probability
    inner = (slice(None), *box)
    refined = classes.clone()
    refined[inner] = mean_field(classes[inner], image[inner], config)
    return refined if channels == CLASSES else region_probabilities(refined)


def mean_field(p, image, config):
    """q (K, x, y, z) after `crf_steps` parallel updates q = softmax(log p + sum_j k_ij q_j)."""
    log_p = p.clamp_min(FLOOR).log()
    kernels = _kernels(image, config)
    q = p
    for _ in range(config.crf_steps):
        message = torch.zeros_like(q)
        for (here, there), kernel in kernels:
            message[here].addcmul_(q[there], kernel)
            message[there].addcmul_(q[here], kernel)
        q = (log_p + message).softmax(0)
    return q


def _kernels(image, config):
    """[((here, there), k)]: for each offset, the two sides of its pairs of voxels and k_ij, float (x', y', z').

    k_ij = g (smoothness + appearance exp(-mean_c (I_i - I_j)^2 / 2 contrast^2)), g a Gaussian of the distance that sums to 1 over a
    full neighbourhood: a voxel whose neighbours all agree and look alike is pulled by smoothness + appearance, in nats.
    """
    gauss = {
        offset: math.exp(-sum(o * o for o in offset) / (2 * config.crf_reach**2)) for offset in HALF
    }
    norm = 2 * sum(gauss.values())
    kernels = []
    for offset, g in gauss.items():
        if any(abs(o) >= side for o, side in zip(offset, image.shape[1:], strict=True)):
            continue
        here = (
            slice(None),
            *(
                slice(max(0, -o), side - max(0, o))
                for o, side in zip(offset, image.shape[1:], strict=True)
            ),
        )
        there = (
            slice(None),
            *(
                slice(max(0, o), side - max(0, -o))
                for o, side in zip(offset, image.shape[1:], strict=True)
            ),
        )
        alike = (
            (image[here] - image[there]).square_().mean(0).div_(-2 * config.crf_contrast**2).exp_()
        )
        kernels.append(
            (
                (here, there),
                alike.mul_(config.crf_appearance).add_(config.crf_smoothness).mul_(g / norm),
            )
        )
    return kernels


def _unsure_box(background):
    """Slices of the smallest box around all voxels that may be tumour, with a margin of REACH; None where there are none."""
    unsure = background < 1 - UNSURE
    box = []
    for axis in range(3):
        where = (
            unsure.any(dim=(axis + 1) % 3, keepdim=True)
            .any(dim=(axis + 2) % 3, keepdim=True)
            .flatten()
            .nonzero()
        )
        if not len(where):
            return None
        box.append(slice(max(0, int(where[0]) - REACH), int(where[-1]) + REACH + 1))
    return tuple(box)
