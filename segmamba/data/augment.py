"""Augmentation on the device, in batch. What is done to a patch is a pure function of (seed, epoch, index).

Legend: B batch, C modalities, (D, H, W) = NIfTI (x, y, z); the axial plane is x-y, that is D-H.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.sampling import AUGMENTATION, generator


@dataclass(frozen=True)
class Plan:
    """What happens to one patch. Everything is drawn, used or not: switching one transform off leaves the others' draws alone."""

    flips: tuple
    quarter_turns: int
    scale: float
    brightness: np.ndarray
    contrast: np.ndarray


def plan(config, seed, epoch, index, channels):
    """The Plan of one patch. `config` is an AugmentConfig."""
    rng = generator(seed, epoch, index, AUGMENTATION)
    flips = tuple(bool(f) for f in rng.random(3) < config.flip_probability)
    turns, turned = int(rng.integers(1, 4)), rng.random() < config.rotate90_probability
    scale = float(rng.uniform(*config.scale_range))
    brightness = rng.uniform(-1, 1, channels) * config.brightness
    return Plan(flips, turns if turned else 0, scale, brightness, rng.uniform(*config.contrast_range, channels))


def augment(image, label, plans):
    """image: float (B, C, D, H, W), label: uint8 (B, D, H, W), one Plan each; new tensors, the label nearest and aligned.

    A quarter turn needs D = H; where they differ only half turns are done.
    """
    if any(any(p.flips) or p.quarter_turns for p in plans):
        pairs = [_flip_and_turn(i, l, p) for i, l, p in zip(image, label, plans, strict=True)]
        image, label = (torch.stack(t) for t in zip(*pairs, strict=True))
    if any(p.scale != 1 for p in plans):
        image, label = _rescale(image, label, [p.scale for p in plans])
    return _shift_and_stretch(image, plans), label


def _flip_and_turn(image, label, plan):
    axes = [axis for axis, flip in zip((-3, -2, -1), plan.flips, strict=True) if flip]
    turns = plan.quarter_turns if image.shape[-3] == image.shape[-2] else plan.quarter_turns // 2 * 2
    return tuple(torch.rot90(t.flip(axes), turns, (-3, -2)) for t in (image, label))


def _rescale(image, label, scales):
    """Zoom about the patch's centre: a scale above 1 enlarges; what comes from outside the patch is 0."""
    theta = torch.zeros(len(scales), 3, 4, device=image.device)
    theta[:, range(3), range(3)] = 1 / torch.tensor(scales, device=image.device, dtype=torch.float32)[:, None]
    grid = F.affine_grid(theta, [*image.shape[:1], 1, *image.shape[2:]], align_corners=False)
    image = F.grid_sample(image, grid.to(image.dtype), mode="bilinear", align_corners=False)
    label = F.grid_sample(label[:, None].to(image.dtype), grid.to(image.dtype), mode="nearest", align_corners=False)
    return image, label[:, 0].to(torch.uint8)


def _shift_and_stretch(image, plans):
    """contrast * x + brightness within the brain; the background stays 0, as it is at test time."""

    def per_channel(name):
        values = np.stack([getattr(p, name) for p in plans])
        return torch.as_tensor(values, device=image.device, dtype=image.dtype)[:, :, None, None, None]

    return torch.where(image != 0, image * per_channel("contrast") + per_channel("brightness"), image)
