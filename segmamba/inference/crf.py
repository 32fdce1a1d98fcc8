"""Boundaries moved to the images' edges, by a locally connected CRF.

The energy of a labelling x is that of Kraehenbuehl & Koltun (2011), equation 1, with Potts
compatibility:

    E(x) = sum_i psi_i(x_i) + sum_{i<j} [x_i != x_j] k_ij,        psi_i(l) = -log p_i(l)

The kernel has the two parts of their equation 3. I is the image with C modalities, z-scored, d_ij
the offset in voxels, and g a Gaussian of it that sums to 1 over a full neighbourhood:

    k_ij = g(d_ij) (smoothness + appearance exp(-mean_c (I_ci - I_cj)^2 / (2 contrast^2)))
    g(d) ~ exp(-|d|^2 / (2 reach^2))

A voxel whose neighbours all agree and look alike is thus pulled by smoothness + appearance, in
nats. Mean-field inference (their algorithm 1) updates all voxels at once, from q = p:

    q_i(l) <- softmax_l (log p_i(l) + sum_j k_ij q_j(l))

The kernel ends at 2 voxels, as in ConvCRF (Teichmann & Cipolla 2018), so that a message is 124
shifted products instead of a lattice. CPU and GPU run the same code.

Legend: K classes or channels, C modalities, (x, y, z) the volume; q the mean field.
"""

import itertools
import math

import torch
from torch import Tensor

from segmamba.config import PostprocessConfig
from segmamba.inference.decide import class_probabilities, region_probabilities
from segmamba.models.outputs import Channels

Slices = tuple[slice, ...]

REACH = 2
"""Voxels in each direction; with the default standard deviation of 1.5, g falls to 0.41 there."""
UNSURE = 0.01
"""Probability of tumour from which a voxel takes part: below it no message turns the decision."""
FLOOR = 1e-6
"""Smallest probability, so that psi stays finite."""
HALF = [o for o in itertools.product(range(-REACH, REACH + 1), repeat=3) if o > (0, 0, 0)]
"""Half of the offsets; the other half is their mirror image."""


@torch.inference_mode()
def refine(
    probability: Tensor, channels: Channels, image: Tensor, config: PostprocessConfig
) -> Tensor:
    """Move the boundaries of a prediction to edges of the images.

    Only the box around voxels that may be tumour is worked on.

    Args:
        probability: Float (K, x, y, z).
        channels: The K channels.
        image: Float (C, x, y, z), z-scored, on the same grid and device.
        config: `crf_steps` mean-field steps, and the kernel's parameters.

    Returns:
        Probabilities (K, x, y, z) in the same channels; the input itself where nothing may be
        tumour.
    """
    labels = channels.labels
    classes = class_probabilities(probability, labels) if channels.are_regions else probability
    box = _unsure_box(classes[0])
    if box is None:
        return probability
    inner = (slice(None), *box)
    refined = classes.clone()
    refined[inner] = mean_field(classes[inner], image[inner], config)
    return region_probabilities(refined, labels) if channels.are_regions else refined


def mean_field(p: Tensor, image: Tensor, config: PostprocessConfig) -> Tensor:
    """Run `crf_steps` parallel updates q = softmax(log p + sum_j k_ij q_j).

    Args:
        p: Probabilities of classes, float (K, x, y, z).
        image: Float (C, x, y, z).
        config: The number of steps, and the kernel's parameters.

    Returns:
        q, float (K, x, y, z).
    """
    log_p = p.clamp_min(FLOOR).log()
    kernels = _kernels(image, config)
    q = p
    for _ in range(config.crf_steps):
        message = torch.zeros_like(q)
        for here, there, kernel in kernels:
            message[here].addcmul_(q[there], kernel)
            message[there].addcmul_(q[here], kernel)
        q = (log_p + message).softmax(0)
    return q


def _kernels(image: Tensor, config: PostprocessConfig) -> list[tuple[Slices, Slices, Tensor]]:
    """(here, there, k) for each offset: the sides of its pairs of voxels, and k_ij (x', y', z')."""
    gauss = {
        offset: math.exp(-sum(o * o for o in offset) / (2 * config.crf_reach**2)) for offset in HALF
    }
    norm = 2 * sum(gauss.values())
    kernels = []
    for offset, g in gauss.items():
        pairs = list(zip(offset, image.shape[1:], strict=True))
        if any(abs(o) >= side for o, side in pairs):
            continue
        here = (slice(None), *(slice(max(0, -o), side - max(0, o)) for o, side in pairs))
        there = (slice(None), *(slice(max(0, o), side - max(0, -o)) for o, side in pairs))
        squared = (image[here] - image[there]).square_().mean(0)
        alike = squared.div_(-2 * config.crf_contrast**2).exp_()
        kernel = alike.mul_(config.crf_appearance).add_(config.crf_smoothness).mul_(g / norm)
        kernels.append((here, there, kernel))
    return kernels


def _unsure_box(background: Tensor) -> Slices | None:
    """The smallest box around all voxels that may be tumour, with a margin of REACH.

    `background` is the probability (x, y, z); the result is None where no voxel may be.
    """
    unsure = background < 1 - UNSURE
    box = []
    for axis in range(3):
        others = ((axis + 1) % 3, (axis + 2) % 3)
        occupied = unsure.any(dim=others[0], keepdim=True).any(dim=others[1], keepdim=True)
        places = occupied.flatten().nonzero()
        if not len(places):
            return None
        box.append(slice(max(0, int(places[0]) - REACH), int(places[-1]) + REACH + 1))
    return tuple(box)
