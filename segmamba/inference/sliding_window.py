"""Whole volumes by overlapping windows with Gaussian weights, as nnU-Net does it (Isensee et al. 2021, supplement).

Legend: C modalities, K channels of the prediction, (D, H, W) the volume, (d, h, w) the window, B windows in one forward pass.

Windows are spread evenly, as nnU-Net spreads them; MONAI steps by a fixed interval and pushes the last window back. Windows that hold
no brain are predicted like all others: of a volume cut to the brain hardly one is empty (none of 16 at 128x128x64), and what a network
says about an empty one is its own affair.
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
def predict_windows(forward, image, window, *, overlap, batch_size):
    """Probabilities, float32 (K, D, H, W) on the image's device: what `forward` gives for each window, averaged.

    overlap: a share of each of the window's three sides. forward: (B, C, d, h, w) to probabilities (B, K, d, h, w), always with the same
    B. image: (C, D, H, W).
    A side below the window is zero-padded for the network and cut again.
    """
    shape = image.shape[1:]
    missing = [max(0, w - s) for w, s in zip(window, shape, strict=True)]
    image = F.pad(image, [n for m in reversed(missing) for n in (0, m)])
    starts = list(
        itertools.product(
            *(
                window_starts(s, w, o)
                for s, w, o in zip(image.shape[1:], window, overlap, strict=True)
            )
        )
    )
    places = [
        tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in starts
    ]
    total, weight_sum = _accumulate(
        forward, image, places, gaussian_weights(window, image.device), min(batch_size, len(places))
    )
    return total.div_(weight_sum)[:, : shape[0], : shape[1], : shape[2]]


def _accumulate(forward, image, places, weights, batch_size):
    """(sum of weighted probabilities (K, D, H, W), sum of weights (D, H, W)) over the windows at `places`."""
    total, weight_sum = None, torch.zeros(image.shape[1:], device=image.device)
    for at in range(0, len(places), batch_size):
        batch = places[at : at + batch_size]
        filled = batch + batch[-1:] * (
            batch_size - len(batch)
        )  # one batch shape alone, for which kernels are chosen once
        probabilities = forward(torch.stack([image[(slice(None), *place)] for place in filled]))
        for place, probability in zip(batch, probabilities, strict=False):
            if total is None:
                total = torch.zeros((probability.shape[0], *image.shape[1:]), device=image.device)
            total[(slice(None), *place)].addcmul_(probability, weights)
            weight_sum[place] += weights
    return total, weight_sum
