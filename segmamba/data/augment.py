"""Augmentation on the device, in batch. What is done to a patch is a pure function of (seed, epoch, index).

Legend: B batch, C modalities, (D, H, W) = NIfTI (x, y, z); the axial plane is x-y, that is D-H.
"""

from dataclasses import dataclass

import numpy as np
import torch

from segmamba.data.augment_intensity import (
    add_noise,
    blur,
    gamma,
    lower_resolution,
    shift_and_stretch,
)
from segmamba.data.augment_spatial import flip_and_turn, warp, warps
from segmamba.data.sampling import AUGMENTATION, generator


@dataclass(frozen=True)
class Plan:
    """What happens to one patch. Everything is drawn, used or not: switching one transform off leaves the others' draws alone.

    Arrays are (C,), a value per channel.
    """

    flips: tuple
    quarter_turns: int
    scale: float
    brightness: np.ndarray
    contrast: np.ndarray
    rotation_degrees: tuple
    """About x, y and z; zeros are none."""
    elastic_voxels: float
    """Standard deviation of the displacement at the control points; 0 is none."""
    elastic_spacing: float
    """Voxels between two control points."""
    field_seed: int
    """Of the displacements."""
    noise_std: np.ndarray
    """0 is none."""
    noise_seed: int
    blur_sigma: np.ndarray
    """Voxels; 0 is none."""
    zoom: np.ndarray
    """Share of the sides that low resolution keeps; 1 is none."""
    gamma: np.ndarray
    """Exponent; 1 is none."""


def plan(config, seed, epoch, index, channels):
    """The Plan of one patch. `config` is an AugmentConfig."""
    rng = generator(seed, epoch, index, AUGMENTATION)
    flips = tuple(bool(f) for f in rng.random(3) < config.flip_probability)
    turns, turned = int(rng.integers(1, 4)), rng.random() < config.rotate90_probability
    scale = float(rng.uniform(*config.scale_range))
    brightness = rng.uniform(-1, 1, channels) * config.brightness
    contrast = rng.uniform(*config.contrast_range, channels)
    rotated, turn = (
        rng.random() < config.rotation_probability,
        rng.uniform(-1, 1, 3) * config.rotation_degrees,
    )
    deformed, elastic, field_seed = (
        rng.random() < config.elastic_probability,
        rng.uniform(*config.elastic_range),
        int(rng.integers(2**31)),
    )
    return Plan(
        flips=flips,
        quarter_turns=turns if turned else 0,
        scale=scale,
        brightness=brightness,
        contrast=contrast,
        rotation_degrees=tuple(map(float, turn)) if rotated else (0.0, 0.0, 0.0),
        elastic_voxels=float(elastic) if deformed else 0.0,
        elastic_spacing=config.elastic_spacing_voxels,
        field_seed=field_seed,
        noise_std=_for_some_channels(
            rng, config.noise_probability, config.noise_range, channels, none=0
        ),
        noise_seed=int(rng.integers(2**31)),
        blur_sigma=_for_some_channels(
            rng, config.blur_probability, config.blur_range, channels, none=0
        ),
        zoom=_for_some_channels(
            rng, config.low_resolution_probability, config.low_resolution_range, channels, none=1
        ),
        gamma=np.exp(
            _for_some_channels(
                rng, config.gamma_probability, np.log(config.gamma_range), channels, none=0
            )
        ),
    )


def _for_some_channels(rng, probability, limits, channels, *, none):
    chosen, values = rng.random(channels) < probability, rng.uniform(*limits, channels)
    return np.where(chosen, values, none)


def augment(image, label, plans):
    """image: float (B, C, D, H, W), label: uint8 (B, D, H, W), one Plan each; new tensors, the label nearest and aligned.

    A quarter turn needs D = H; where they differ only half turns are done. All moves together interpolate once; a batch without zoom,
    rotation and elastic deformation is not interpolated at all. A GPU is never waited for.
    """
    if any(warps(p) for p in plans):
        image, label = warp(image, label, plans)
    elif any(any(p.flips) or p.quarter_turns for p in plans):
        pairs = [flip_and_turn(i, l, p) for i, l, p in zip(image, label, plans, strict=True)]
        image, label = (torch.stack(t) for t in zip(*pairs, strict=True))
    return _intensities(image, plans), label


def _intensities(image, plans):
    """Noise, blur, contrast and brightness, low resolution, gamma: nnU-Net's order. The background stays 0, as it is at test time."""
    brain = image != 0

    def strengths(name):
        return np.stack([getattr(p, name) for p in plans])  # (B, C)

    if (std := strengths("noise_std")).any():
        image = torch.where(brain, add_noise(image, std, [p.noise_seed for p in plans]), 0)
    if (sigma := strengths("blur_sigma")).any():
        image = torch.where(brain, blur(image, sigma), 0)
    image = torch.where(
        brain, shift_and_stretch(image, strengths("brightness"), strengths("contrast")), 0
    )
    if ((zoom := strengths("zoom")) < 1).any():
        image = torch.where(brain, lower_resolution(image, zoom), 0)
    if ((exponent := strengths("gamma")) != 1).any():
        image = gamma(image, exponent, brain)
    return image
