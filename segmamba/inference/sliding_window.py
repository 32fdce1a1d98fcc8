"""Whole volumes by overlapping windows with Gaussian weights.

nnU-Net does the same (Isensee et al. 2021, supplement):

    p(v) = sum_w g(v - w) f_w(v - w) / sum_w g(v - w)

over the windows w that hold the voxel v, f_w being the network's prediction for a window and g the
Gaussian of `gaussian_weights`.

Windows are spread evenly, as nnU-Net spreads them; MONAI steps by a fixed interval and pushes the
last window back. Windows that hold no brain are predicted like all others: of a volume cut to the
brain hardly one is empty (none of 16 at 128x128x64), and what a network says about an empty one is
part of its prediction.

Legend: C modalities, K channels of the prediction, (D, H, W) the volume, (d, h, w) the window,
B windows in one forward pass.
"""

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA_SHARE = 0.125
"""Standard deviation of the weights as a share of the window: nnU-Net's value, MONAI's default."""
FLOOR = 1e-3
"""Smallest weight, so that a voxel covered by corners alone still counts."""


def window_starts(side: int, window: int, overlap: float) -> list[int]:
    """Spread the fewest windows evenly that cover a side with at least the given overlap.

    Args:
        side: Voxels of the volume along an axis.
        window: Voxels of the window along it.
        overlap: Overlap of neighbouring windows, as a share of the window, in [0, 1).

    Returns:
        The first voxel of each window.
    """
    if side <= window:
        return [0]
    count = 1 + -(-(side - window) // max(1, int(window * (1 - overlap))))
    return [round(i * (side - window) / (count - 1)) for i in range(count)]


def gaussian_weights(window: Sequence[int], device: torch.device) -> Tensor:
    """The weights of a window's voxels.

    They are exp(-|offset / sigma|^2 / 2), the offset being that from the window's centre and sigma
    SIGMA_SHARE of each side, scaled to 1 at the largest and not below FLOOR.

    Args:
        window: d, h and w.
        device: Where the result lies.

    Returns:
        float32 (d, h, w).
    """
    weights = torch.ones((), device=device)
    for side in window:
        offset = torch.arange(side, device=device) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (offset / (SIGMA_SHARE * side)) ** 2)
    return (weights / weights.max()).clamp_min(FLOOR)


@torch.inference_mode()
def predict_windows(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: Sequence[float],
    batch_size: int,
) -> Tensor:
    """Predict a volume window by window.

    A side below the window is zero-padded for the network and cut again.

    Args:
        forward: Maps windows (B, C, d, h, w) to probabilities (B, K, d, h, w); B is always the
            same.
        image: (C, D, H, W).
        window: d, h and w.
        overlap: A share of each of the window's three sides.
        batch_size: The largest B.

    Returns:
        The weighted mean over the windows, float32 (K, D, H, W), on the image's device.
    """
    shape = image.shape[1:]
    missing = [max(0, w - s) for w, s in zip(window, shape, strict=True)]
    image = F.pad(image, [n for m in reversed(missing) for n in (0, m)])
    along = [
        window_starts(s, w, o) for s, w, o in zip(image.shape[1:], window, overlap, strict=True)
    ]
    places = [
        tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        for start in itertools.product(*along)
    ]
    weights = gaussian_weights(window, image.device)
    total, weight_sum = _accumulate(forward, image, places, weights, min(batch_size, len(places)))
    return total.div_(weight_sum)[:, : shape[0], : shape[1], : shape[2]]


def _accumulate(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    places: list[tuple[slice, ...]],
    weights: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """The sums over the windows of weighted probabilities (K, D, H, W) and of weights (D, H, W)."""
    total, weight_sum = None, torch.zeros(image.shape[1:], device=image.device)
    for first in range(0, len(places), batch_size):
        batch = places[first : first + batch_size]
        # one batch shape alone, for which kernels are chosen once
        filled = batch + batch[-1:] * (batch_size - len(batch))
        windows = [image[_all_channels(place)] for place in filled]
        probabilities = forward(torch.stack(windows))
        if total is None:
            total = torch.zeros((probabilities.shape[1], *image.shape[1:]), device=image.device)
        for place, probability in zip(batch, probabilities, strict=False):
            total[_all_channels(place)].addcmul_(probability, weights)
            weight_sum[place] += weights
    assert total is not None, "a volume has a window"
    return total, weight_sum


def _all_channels(place: tuple[slice, ...]) -> tuple[slice, ...]:
    return slice(None), *place
