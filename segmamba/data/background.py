"""What lies outside the brain: found in each image, and 0 for all that reads it.

Skull-stripped images share one value outside the brain. It is 0 in the BraTS releases, and another
one after a z-score over the whole volume, after an offset, or where a tool wrote -1. Most voxels
on the border of the volume have it. Subtracting it gives the image that had 0 outside: z-scores
are the same, and "differs from 0" means brain everywhere behind.

Images are looked at through a sample of at most about 64 voxels along each axis, so that this costs
a few milliseconds. The border is looked at whole.
"""

from dataclasses import dataclass

import numpy as np

MAJORITY = 0.5
"""A share of the border above which a value is its background."""
SPIKE_SHARE, SPIKE_RATIO = 0.05, 10
"""Where the brain is cut by the border, the background is a smaller share of it, but still so many
times as frequent as the next value."""
NEAR_SHARE = 1e-3
"""Of the range of the image: what is so close to the background may be its noise. Interpolation
rounds to a millionth; tissue has a hundredth of its voxels in such an interval."""
NOISE_SHARE = 0.05
"""The share of supposed brain so close to the background that it must be noise."""
SAMPLED_SIDE = 64
MOST_VALUES = 3  # an image that was padded or turned twice has three backgrounds


@dataclass(frozen=True)
class Background:
    """What an image has outside the brain."""

    values: tuple[float, ...]
    """From the border inwards, in the type of the image; empty where the border shares no value.
    More than one where an image was padded or turned with another value than its own."""
    tolerance: float = 0.0
    """How far voxels may lie from the last value and still be background."""
    border_brain_share: float = 0.0
    """The share of the border that is not background."""

    @property
    def is_zero(self) -> bool:
        """Whether brain is exactly what differs from 0."""
        return all(value == 0 for value in self.values) and not self.tolerance

    def brain(self, volume: np.ndarray) -> np.ndarray:
        """Tell brain from background.

        Args:
            volume: Voxels of the image, of any shape.

        Returns:
            bool of the same shape: True where a voxel is no background. Without a known background
            that is where it differs from 0.
        """
        inside = volume != (self.values[0] if self.values else 0)
        for value in self.values[1:]:
            inside &= volume != value
        if self.tolerance:
            inside &= np.abs(volume.astype(np.float64) - self.values[-1]) > self.tolerance
        return inside

    def removed_from(self, volume: np.ndarray) -> np.ndarray:
        """Make the image whose background is 0.

        Args:
            volume: The image (x, y, z).

        Returns:
            The image itself where its background is 0, else float32, less the value next to the
            brain, and 0 outside.
        """
        if self.is_zero:
            return volume
        # Single precision is exact where both are single: the difference has fewer digits.
        precise = np.float32 if volume.dtype == np.float32 else np.float64
        shifted = np.subtract(volume, self.values[-1], dtype=precise)
        shifted[~self.brain(volume)] = 0
        return shifted.astype(np.float32, copy=False)

    def __str__(self) -> str:
        words = " and ".join(f"{value:.6g}" for value in self.values)
        return f"{words} within {self.tolerance:.2g}" if self.tolerance else words


def sample(volume: np.ndarray) -> np.ndarray:
    """Every second, third, ... voxel of the longer axes.

    Args:
        volume: The image (x, y, z).

    Returns:
        A view of at most about `SAMPLED_SIDE` voxels along each axis.
    """
    return volume[tuple(slice(None, None, max(1, round(n / SAMPLED_SIDE))) for n in volume.shape)]


def find_background(volume: np.ndarray) -> Background:
    """Find the background of an image.

    Args:
        volume: The image (x, y, z), finite numbers.

    Returns:
        The background. An image without one, which fills its field of view or has noise outside
        the head, gets no value.
    """
    few = sample(volume)
    edge = border(volume)
    first = _shared_value(edge)
    if first is None:
        first, tolerance = _shared_within_noise(edge, few)
        values = [] if first is None else [first]
    else:
        values = [first]
        values += _further_values(few, values)
        tolerance = _noise(few, values)
    found = Background(tuple(values), tolerance)
    return Background(found.values, tolerance, float(found.brain(edge).mean()))


def border(volume: np.ndarray) -> np.ndarray:
    """The voxels of the six faces.

    Args:
        volume: The image (x, y, z).

    Returns:
        (n,), those of the edges once. An axis of one or two slices has no faces, or all would be
        border.
    """
    on_face = np.zeros(volume.shape, bool)
    for axis, side in enumerate(volume.shape):
        if side > 2:
            faces = np.moveaxis(on_face, axis, 0)
            faces[0] = faces[-1] = True
    return volume[on_face] if on_face.any() else volume.ravel()


def _shared_value(edge: np.ndarray) -> float | None:
    """The value that most of the border has, or that stands out in it."""
    found, counts = np.unique(edge, return_counts=True)
    place = int(counts.argmax())
    share, others = counts[place] / edge.size, np.delete(counts, place)
    stands_out = share >= SPIKE_SHARE and counts[place] >= SPIKE_RATIO * others.max(initial=1)
    return found[place].item() if share >= MAJORITY or stands_out else None


def _further_values(volume: np.ndarray, values: list[float]) -> list[float]:
    """Values that surround the brain within the first: the own one of a padded or turned image."""
    more: list[float] = []
    while len(values) + len(more) < MOST_VALUES:
        inside = Background((*values, *more)).brain(volume)
        if not inside.any():
            break
        edge = border(volume[bounding_box(inside)])
        rest = edge[Background((*values, *more)).brain(edge)]
        if rest.size < SPIKE_SHARE * edge.size:
            break
        value = _shared_value(rest)
        if value is None or np.count_nonzero(rest == value) < SPIKE_SHARE * edge.size:
            break
        if not (volume[inside] != value).any():
            break  # a mask, not a background
        more.append(value)
    return more


def _shared_within_noise(edge: np.ndarray, few: np.ndarray) -> tuple[float | None, float]:
    """(value, tolerance) that most of the border has to within `NEAR_SHARE`, or (None, 0)."""
    ordered = np.sort(edge.astype(np.float64))
    middle = float(ordered[ordered.size // 2])
    tolerance = NEAR_SHARE * float(np.percentile(np.abs(few.astype(np.float64) - middle), 99.5))
    after = np.searchsorted(ordered, ordered + tolerance, side="right")
    counts = after - np.searchsorted(ordered, ordered - tolerance)
    fullest = np.flatnonzero(counts == counts.max())
    place = int(fullest[fullest.size // 2])  # the middle: noise inside the volume reaches further
    if not tolerance or counts[place] < MAJORITY * ordered.size:
        return None, 0.0
    value = float(ordered[place])
    return (0.0 if abs(value) <= tolerance else value), tolerance


def _noise(few: np.ndarray, values: list[float]) -> float:
    """The tolerance that an exact value needs: 0, unless noise around it passes for brain."""
    brain = few[Background(tuple(values)).brain(few)]
    if not brain.size:
        return 0.0
    distances = np.abs(brain.astype(np.float64) - values[-1])
    near = NEAR_SHARE * float(np.percentile(distances, 99))
    return near if np.mean(distances <= near) > NOISE_SHARE else 0.0


def bounding_box(inside: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around all that is true.

    Args:
        inside: bool (x, y, z), true somewhere.

    Returns:
        Slices along x, y and z.
    """
    filled = [np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) for at in filled)
