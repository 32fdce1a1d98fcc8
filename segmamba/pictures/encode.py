"""A case as the viewer's page holds it: cut to the brain, a byte a voxel, compressed.

A case of 240x240x155 voxels in four modalities comes to 2 MB: T1ce and FLAIR stay on the grid of
the files, and where the case would be larger, the other two are halved and all have fewer grey
levels; larger volumes are coarser still. Segmentations are never changed.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segmamba.pictures.palette import CLASS_COLOURS
from segmamba.pictures.view import CaseView, surroundings, window

CASE_BYTES = 2_000_000
"""What the images of a case may take, compressed."""
PLANS = ((256, 1, 1), (64, 1, 1), (64, 1, 2), (32, 1, 2), (32, 2, 4), (32, 4, 4), (32, 8, 8))
"""(grey levels, sides of the blocks that are averaged in the first FIRST modalities, and in the
others); the first that fits is taken."""
FIRST = 2
SAMPLED = 8
"""A size is estimated from every eighth slice."""
LEVEL = 6
SHARES = 63
"""Steps of an uncertainty in [0, 1]."""


@dataclass(frozen=True)
class ViewerCase:
    """A case, ready for the page."""

    id: str
    group: str
    """What the list puts before its name: "worst", for example."""
    dice: float | None
    """Of the first prediction; None without truth."""
    about: dict[str, Any]
    """What the page's script reads beside `data`."""
    data: tuple[str, ...] = field(repr=False)
    """Volumes, compressed and as base64; `about` says which is which."""

    @property
    def size(self) -> int:
        """Bytes that it takes in the page."""
        return sum(map(len, self.data)) + len(json.dumps(self.about))


def encode_case(
    view: CaseView,
    *,
    predictions: Mapping[str, np.ndarray] | None = None,
    uncertainty: np.ndarray | None = None,
    dice: Mapping[str, float] | None = None,
    group: str = "",
) -> ViewerCase:
    """Encode a case.

    Args:
        view: The case, with its id as heading.
        predictions: Name to class numbers, uint8 (x, y, z), on the grid of `view`; None takes the
            view's own. Two or more can be seen side by side.
        uncertainty: Float (x, y, z) in [0, 1].
        dice: The mean Dice of each prediction, where there is a truth.
        group: As in a ViewerCase.

    Returns:
        The case, with images of about CASE_BYTES at most.
    """
    if predictions is None:
        predictions = {} if view.prediction is None else {"prediction": view.prediction}
    inside = view.brain() if view.images else np.zeros(view.shape, bool)
    for classes in (view.truth, *predictions.values()):
        inside |= classes > 0 if classes is not None else False
    box = surroundings(inside, 0)
    part = view.cut(box)
    data: list[str] = []

    def add(volume: np.ndarray) -> int:
        data.append(_packed(volume))
        return len(data) - 1

    levels, *steps = _plan(part)
    images = []
    for place, modality in enumerate(part.shown):
        step = steps[place >= FIRST]
        grey, low, high = _grey(part.images[modality], levels, step)
        images.append(
            {
                "name": modality,
                "levels": levels,
                "step": step,
                "shape": grey.shape,
                "low": low,
                "high": high,
                "blob": add(grey),
            }
        )
    cut = {name: classes[box] for name, classes in predictions.items()}
    scores = dice or {}
    about = {
        "id": view.heading,
        "group": group,
        "shape": part.shape,
        "offset": [side.start for side in box],
        "affine": part.affine.tolist(),
        "centre": part.centre(),
        "images": images,
        "classes": view.labels.classes,
        "colours": ["#000000", *(CLASS_COLOURS[name] for name in view.labels.classes[1:])],
        "regions": {name: list(view.labels.members[name]) for name in view.labels.regions},
        "truth": None if part.truth is None else add(part.truth),
        "predictions": [
            {"name": name, "dice": scores.get(name), "blob": add(classes)}
            for name, classes in cut.items()
        ],
        "uncertainty": None if uncertainty is None else add(_shares(uncertainty[box])),
    }
    first = next(iter(predictions), "")
    return ViewerCase(view.heading, group, scores.get(first), about, tuple(data))


def _plan(view: CaseView) -> tuple[int, int, int]:
    """The first of PLANS with which the images of a case take CASE_BYTES at most, or the last."""
    samples = [np.asarray(view.images[name])[..., ::SAMPLED] for name in view.shown]
    for plan in PLANS:
        estimate = 0
        for place, sample in enumerate(samples):
            step = plan[2 if place >= FIRST else 1]
            grey, _, _ = _grey(sample[::step, ::step], plan[0], 1)
            estimate += len(_compressed(grey)) * SAMPLED // step
        if estimate <= CASE_BYTES:
            break
    return plan


def _grey(image: np.ndarray, levels: int, step: int) -> tuple[np.ndarray, float, float]:
    """uint8 (x, y, z), 0 outside the brain and 1 to `levels` - 1 inside; what these two mean."""
    image = np.asarray(image, np.float32)
    low, high = window(image)
    if step > 1:
        image = _mean_of_blocks(image, step)
    share = np.clip((image - low) / (high - low), 0, 1)
    grey = np.where(image == 0, 0, 1 + np.round(share * (levels - 2))).astype(np.uint8)
    return grey, low, high


def _mean_of_blocks(image: np.ndarray, step: int) -> np.ndarray:
    """The mean over the voxels of the brain of each block; 0 where there is none."""
    padded = np.pad(image, [(0, -n % step) for n in image.shape])
    x, y, z = (n // step for n in padded.shape)
    blocks = padded.reshape(x, step, y, step, z, step)
    count = np.count_nonzero(blocks, axis=(1, 3, 5))
    return blocks.sum((1, 3, 5)) / np.maximum(count, 1)


def _shares(uncertainty: np.ndarray) -> np.ndarray:
    """uint8 (x, y, z): [0, 1] in SHARES steps, of 255."""
    steps = np.round(np.clip(uncertainty, 0, 1) * SHARES)
    return np.round(steps * (255 / SHARES)).astype(np.uint8)


def _packed(volume: np.ndarray) -> str:
    return base64.b64encode(_compressed(volume)).decode()


def _compressed(volume: np.ndarray) -> bytes:
    """The bytes of a uint8 volume, x fastest as in NIfTI, compressed the same way every time."""
    return gzip.compress(volume.astype(np.uint8).tobytes(order="F"), LEVEL, mtime=0)
