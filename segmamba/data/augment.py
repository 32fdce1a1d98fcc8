"""Augmentation on the device, in batches.

What is done to a patch is a pure function of (seed, epoch, index).

Legend: B batch, C modalities, (D, H, W) = NIfTI (x, y, z). The axial plane is x-y, that is D-H.
"""

from collections.abc import Sequence

import numpy as np
import torch

from segmamba.config import AugmentConfig
from segmamba.data.augment_intensity import (
    add_noise,
    blur,
    gamma,
    lower_resolution,
    shift_and_stretch,
)
from segmamba.data.augment_spatial import flip_and_turn, must_interpolate, warp
from segmamba.data.augmentation_draws import AugmentationDraws
from segmamba.data.feed import to_device
from segmamba.data.sampling import AUGMENTATION, DROPOUT, generator


def draw_augmentation(
    config: AugmentConfig, seed: int, epoch: int, index: int, channels: int
) -> AugmentationDraws:
    """Draw what happens to one patch.

    Args:
        config: Probabilities and ranges.
        seed: The run's seed.
        epoch: From 1.
        index: Of the patch within the epoch, from 0.
        channels: C, the number of modalities.

    Returns:
        The draws, which depend on the arguments alone.
    """
    # The order of the calls to `rng` is part of what a seed means.
    rng = generator(seed, epoch, index, AUGMENTATION)
    flips = tuple(bool(f) for f in rng.random(3) < config.flip_probability)
    turns, turned = int(rng.integers(1, 4)), rng.random() < config.rotate90_probability
    scale = float(rng.uniform(*config.scale_range))
    brightness = rng.uniform(-1, 1, channels) * config.brightness
    contrast = rng.uniform(*config.contrast_range, channels)
    rotated = rng.random() < config.rotation_probability
    degrees = rng.uniform(-1, 1, 3) * config.rotation_degrees
    deformed = rng.random() < config.elastic_probability
    elastic_voxels = float(rng.uniform(*config.elastic_range))
    field_seed = int(rng.integers(2**31))
    noise_std = _for_some_channels(
        rng, config.noise_probability, config.noise_range, channels, none=0
    )
    noise_seed = int(rng.integers(2**31))
    blur_sigma = _for_some_channels(
        rng, config.blur_probability, config.blur_range, channels, none=0
    )
    zoom = _for_some_channels(
        rng, config.low_resolution_probability, config.low_resolution_range, channels, none=1
    )
    log_gamma = _for_some_channels(
        rng, config.gamma_probability, np.log(config.gamma_range), channels, none=0
    )
    return AugmentationDraws(
        flips=flips,
        quarter_turns=turns if turned else 0,
        scale=scale,
        brightness=brightness,
        contrast=contrast,
        rotation_degrees=tuple(map(float, degrees)) if rotated else (0.0, 0.0, 0.0),
        elastic_voxels=elastic_voxels if deformed else 0.0,
        elastic_spacing=config.elastic_spacing_voxels,
        field_seed=field_seed,
        noise_std=noise_std,
        noise_seed=noise_seed,
        blur_sigma=blur_sigma,
        zoom=zoom,
        gamma=np.exp(log_gamma),
        dropped=draw_dropout(config.modality_dropout, generator(seed, epoch, index, DROPOUT)),
    )


def draw_dropout(chances: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Draw which modalities a patch is shown without; never all of them.

    Args:
        chances: (C,), the chance of each modality.
        rng: Gives one number for each.

    Returns:
        bool (C,). Where all would be dropped, the modality whose number lies nearest to its chance,
        as a share of it, is kept.
    """
    drawn, limits = rng.random(len(chances)), np.array(chances)
    dropped = drawn < limits
    if dropped.all():
        dropped[np.argmax(drawn / limits)] = False
    return dropped


def _for_some_channels(
    rng: np.random.Generator,
    probability: float,
    limits: Sequence[float] | np.ndarray,
    channels: int,
    *,
    none: float,
) -> np.ndarray:
    """(C,): a uniform value for each channel that is chosen, `none` for the others."""
    low, high = limits
    chosen, values = rng.random(channels) < probability, rng.uniform(low, high, channels)
    return np.where(chosen, values, none)


def augment(
    image: torch.Tensor, label: torch.Tensor, draws: Sequence[AugmentationDraws]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the draws to a batch. A GPU is never waited for.

    All moves of a patch together interpolate once. A batch without zoom, rotation and elastic
    deformation is not interpolated at all.

    Args:
        image: float (B, C, D, H, W).
        label: uint8 (B, D, H, W), internal classes.
        draws: One for each patch. A quarter turn needs D = H; where they differ only half turns
            are done.

    Returns:
        New tensors (image, label) of the same shapes and types. The label is moved by nearest
        neighbour and stays aligned with the image.
    """
    if any(must_interpolate(drawn) for drawn in draws):
        image, label = warp(image, label, draws)
    elif any(any(drawn.flips) or drawn.quarter_turns for drawn in draws):
        moved = [
            flip_and_turn(i, l, drawn) for i, l, drawn in zip(image, label, draws, strict=True)
        ]
        image, label = (torch.stack(tensors) for tensors in zip(*moved, strict=True))
    return _without_dropped(_augment_intensities(image, draws), draws), label


def _without_dropped(image: torch.Tensor, draws: Sequence[AugmentationDraws]) -> torch.Tensor:
    """Set the channels to 0 that are dropped, unless the case has no other.

    A case that lacks modalities itself might lose all that it has.
    """
    dropped = np.stack([drawn.dropped for drawn in draws])  # (B, C)
    if not dropped.any():
        return image
    kept = to_device(~dropped, image.device)
    held = (image != 0).flatten(2).any(2)  # (B, C)
    kept = kept | ~(held & kept).any(1, keepdim=True)
    return torch.where(kept[..., None, None, None], image, 0)


def _augment_intensities(image: torch.Tensor, draws: Sequence[AugmentationDraws]) -> torch.Tensor:
    """Noise, blur, contrast and brightness, low resolution and gamma, in nnU-Net's order.

    The background stays 0, as it is at test time.
    """
    brain = image != 0

    def strengths(name: str) -> np.ndarray:
        return np.stack([getattr(drawn, name) for drawn in draws])  # (B, C)

    if (std := strengths("noise_std")).any():
        noisy = add_noise(image, std, [drawn.noise_seed for drawn in draws])
        image = torch.where(brain, noisy, 0)
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
