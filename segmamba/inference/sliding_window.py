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
from collections import deque
from collections.abc import Callable, Iterator, Sequence

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
    return next(predict_volumes(forward, [image], window, overlap=overlap, batch_size=batch_size))


def predict_volumes(
    forward: Callable[[Tensor], Tensor],
    images: Sequence[Tensor],
    window: Sequence[int],
    *,
    overlap: Sequence[float],
    batch_size: int,
) -> Iterator[Tensor]:
    """Predict volumes as `predict_windows` does, the windows of several in one batch.

    Only the last batch of all is filled up, where otherwise that of every volume would be.

    Args:
        forward: Maps float32 windows (B, C, d, h, w) to probabilities (B, K, d, h, w); B is always
            the same.
        images: Float (C, D, H, W), all on one device.
        window: d, h and w.
        overlap: A share of each of the window's three sides.
        batch_size: The largest B.

    Yields:
        The weighted mean over the windows, float32 (K, D, H, W), of each volume.
    """
    volumes = [_Volume(image, window, overlap) for image in images]
    weights = gaussian_weights(window, images[0].device)
    places = [(volume, place) for volume in volumes for place in volume.places]
    size, waiting = min(batch_size, len(places)), deque(volumes)
    for first in range(0, len(places), size):
        batch = places[first : first + size]
        # one batch shape alone, for which kernels are chosen once
        filled = batch + batch[-1:] * (size - len(batch))
        with torch.inference_mode():
            probabilities = forward(torch.stack([volume.cut(place) for volume, place in filled]))
            for (volume, place), probability in zip(batch, probabilities, strict=False):
                volume.add(place, probability, weights)
        while waiting and waiting[0].is_done:
            yield waiting.popleft().mean()


Place = tuple[slice, ...]
"""Where a window lies in the padded volume."""


class _Volume:
    """A volume whose windows are predicted one after the other.

    It takes memory from its first window on, until its mean is taken.
    """

    def __init__(self, image: Tensor, window: Sequence[int], overlap: Sequence[float]) -> None:
        self._image, self._shape = image, image.shape[1:]
        self._missing = [max(0, w - s) for w, s in zip(window, self._shape, strict=True)]
        self._padded_shape = [s + m for s, m in zip(self._shape, self._missing, strict=True)]
        along = [
            window_starts(s, w, o)
            for s, w, o in zip(self._padded_shape, window, overlap, strict=True)
        ]
        self.places: list[Place] = [
            tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
            for start in itertools.product(*along)
        ]
        self._left = len(self.places)
        self._padded: Tensor | None = None
        self._total: Tensor | None = None
        self._weight_sum: Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether all windows are in."""
        return self._left == 0

    def cut(self, place: Place) -> Tensor:
        """The window (C, d, h, w) there, float32."""
        if self._padded is None:
            self._padded = F.pad(self._image, [n for m in reversed(self._missing) for n in (0, m)])
        return self._padded[_all_channels(place)].float()

    def add(self, place: Place, probability: Tensor, weights: Tensor) -> None:
        """Take in the prediction (K, d, h, w) of the window there, with weights (d, h, w)."""
        if self._total is None or self._weight_sum is None:
            sides = self._padded_shape
            self._total = torch.zeros((len(probability), *sides), device=weights.device)
            self._weight_sum = torch.zeros(sides, device=weights.device)
        self._total[_all_channels(place)].addcmul_(probability, weights)
        self._weight_sum[place] += weights
        self._left -= 1

    @torch.inference_mode()
    def mean(self) -> Tensor:
        """The weighted mean (K, D, H, W) over all windows; the volume's memory is let go."""
        total, weight_sum = self._total, self._weight_sum
        assert total is not None and weight_sum is not None, "a volume has a window"
        self._padded = self._total = self._weight_sum = None
        x, y, z = self._shape
        return total.div_(weight_sum)[:, :x, :y, :z]


def _all_channels(place: Place) -> Place:
    return slice(None), *place
