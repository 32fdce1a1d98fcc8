"""Whole volumes by overlapping windows with Gaussian weights, as nnU-Net does it (Isensee et al. 2021, supplement).

Legend: C modalities, K classes, (D, H, W) the volume, (d, h, w) the window.
"""

import itertools

import torch
import torch.nn.functional as F

SIGMA_SHARE = 0.125  # standard deviation of the weights as a share of the window: nnU-Net's value, and MONAI's default


def window_starts(side, window, overlap):
    """First voxels of the fewest evenly spread windows that cover `side` with at least the given overlap."""
    if side <= window:
        return [0]
    count = 1 + -(-(side - window) // max(1, int(window * (1 - overlap))))
    return [round(i * (side - window) / (count - 1)) for i in range(count)]


def gaussian_weights(window, device):
    """(d, h, w), 1 at the centre; floored so that a voxel covered by corners alone still counts."""
    weights = torch.ones((), device=device)
    for side in window:
        offset = torch.arange(side, device=device) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA_SHARE * side)) ** 2)
    return (weights / weights.max()).clamp_min(1e-3)


@torch.inference_mode()
def predict_probabilities(model, image, window, *, overlap, batch_size, autocast):
    """Softmax probabilities, float32 (K, D, H, W) on the image's device.

    image: (C, D, H, W) on the model's device. A side below the window is zero-padded for the network and cut again.
    `autocast` is a function that gives a context manager.
    """
    shape = image.shape[1:]
    missing = [max(0, w - s) for w, s in zip(window, shape, strict=True)]
    image = F.pad(image, [n for m in reversed(missing) for n in (0, m)])
    weights = gaussian_weights(window, image.device)
    starts = list(itertools.product(*(window_starts(s, w, overlap) for s, w in zip(image.shape[1:], window, strict=True))))
    total, weight_sum = None, torch.zeros(image.shape[1:], device=image.device)
    for at in range(0, len(starts), batch_size):
        places = [tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in starts[at : at + batch_size]]
        with autocast():
            logits = model(torch.stack([image[(slice(None), *place)] for place in places]))
        for place, probability in zip(places, logits.float().softmax(1), strict=True):
            if total is None:
                total = torch.zeros((probability.shape[0], *image.shape[1:]), device=image.device)
            total[(slice(None), *place)] += probability * weights
            weight_sum[place] += weights
    return (total / weight_sum)[:, : shape[0], : shape[1], : shape[2]]
