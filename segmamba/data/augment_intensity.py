"""Augmentation of intensities: noise, blur, contrast and brightness, low resolution, gamma.

Legend: B batch, C channels, (D, H, W) the patch. `image` is float (B, C, D, H, W). Strengths are
NumPy arrays (B, C), one value for each channel of each patch. The ranges in AugmentConfig are those
of nnU-Net v2 (nnUNetTrainer.get_training_transforms; Isensee et al. 2021, supplement).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.feed import to_device

BLUR_REACH = 3  # the kernel is cut at this many standard deviations


def add_noise(image: torch.Tensor, std: np.ndarray, seeds: Sequence[int]) -> torch.Tensor:
    """Add normal noise.

    Args:
        image: float (B, C, D, H, W).
        std: (B, C), the standard deviation; 0 is none.
        seeds: One for each patch. Other kinds of device draw other noise from the same seed.

    Returns:
        A new tensor of the same shape.
    """
    image, strength = image.clone(), _per_channel(std, image)
    shape = image.shape[1:]
    for row in np.flatnonzero(std.any(axis=1)).tolist():
        generator = torch.Generator(image.device).manual_seed(seeds[row])
        noise = torch.randn(shape, generator=generator, device=image.device, dtype=image.dtype)
        image[row].addcmul_(noise, strength[row])
    return image


def blur(image: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """Convolve with a Gaussian.

    Args:
        image: float (B, C, D, H, W).
        sigma: (B, C), the standard deviation in voxels; 0 is none.

    Returns:
        A tensor of the same shape.
    """
    on = sigma > 0
    return _where_on(image, on, lambda channels, _: _gaussian(channels, sigma[on]))


def shift_and_stretch(
    image: torch.Tensor, brightness: np.ndarray, contrast: np.ndarray
) -> torch.Tensor:
    """Change brightness and contrast: contrast * x + brightness.

    Args:
        image: float (B, C, D, H, W).
        brightness: (B, C), in the image's unit.
        contrast: (B, C), a factor.

    Returns:
        A new tensor of the same shape.
    """
    gain, offset = _per_channel(np.stack([contrast, brightness]), image)
    return torch.addcmul(offset, image, gain)


def lower_resolution(image: torch.Tensor, zoom: np.ndarray) -> torch.Tensor:
    """Simulate a low resolution.

    A channel is shrunk by nearest neighbour and brought back by linear interpolation.

    Args:
        image: float (B, C, D, H, W).
        zoom: (B, C), the share of each side that is kept; 1 is none.

    Returns:
        A tensor of the same shape.
    """
    on = zoom < 1

    def shrink(channels: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [
                _shrink_one(channel[None, None], kept)[0]
                for channel, kept in zip(channels, zoom[on], strict=True)
            ]
        )

    return _where_on(image, on, shrink)


def gamma(image: torch.Tensor, exponent: np.ndarray, brain: torch.Tensor) -> torch.Tensor:
    """Apply x^exponent on the channel's range within the brain.

    The channel's mean and standard deviation within the brain are kept.

    Args:
        image: float (B, C, D, H, W).
        exponent: (B, C); 1 is none.
        brain: bool, the image's shape.

    Returns:
        A tensor of the same shape.
    """
    on = exponent != 1
    return _where_on(
        image,
        on,
        lambda channels, chosen: _bend(channels, exponent[on], brain.flatten(0, 1)[chosen]),
    )


def _where_on(
    image: torch.Tensor,
    on: np.ndarray,
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`image` with some of its channels changed.

    on: bool (B, C), which channels. change: a function of these n channels, (n, D, H, W), and of
    their places among all B x C, a tensor (n,) on the device. A mask on the device would not do:
    a GPU would have to be asked for the number of channels.
    """
    if not on.any():
        return image
    channels, chosen = image.flatten(0, 1), to_device(np.flatnonzero(on), image.device)
    return channels.index_copy(0, chosen, change(channels[chosen], chosen)).view(image.shape)


def _per_channel(values: np.ndarray, image: torch.Tensor) -> torch.Tensor:
    """NumPy (...) as a tensor (..., 1, 1, 1) of the image's type, on its device."""
    return to_device(values, image.device).to(image.dtype)[..., None, None, None]


def _gaussian(channels: torch.Tensor, sigma: np.ndarray) -> torch.Tensor:
    """(n, D, H, W), each blurred by its own sigma (n,), one axis after the other.

    The values at the border continue beyond it.
    """
    reach = math.ceil(BLUR_REACH * float(sigma.max()))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma[:, None]) ** 2)
    weights /= weights.sum(1, keepdims=True)
    taps = _per_channel(weights.T, channels)  # (2 reach + 1, n, 1, 1, 1)
    for axis in (1, 2, 3):
        margins = [0] * 6
        margins[2 * (3 - axis)] = margins[2 * (3 - axis) + 1] = reach
        padded = F.pad(channels[None], margins, mode="replicate")[0]
        side = channels.shape[axis]
        channels = taps[0] * padded.narrow(axis, 0, side)
        for place in range(1, len(taps)):
            channels.addcmul_(taps[place], padded.narrow(axis, place, side))
    return channels


def _shrink_one(channel: torch.Tensor, zoom: float) -> torch.Tensor:
    """(1, 1, D, H, W), shrunk to `zoom` of its sides and brought back."""
    small = F.interpolate(
        channel,
        size=[max(1, round(n * float(zoom))) for n in channel.shape[2:]],
        mode="nearest-exact",
    )
    return F.interpolate(small, size=channel.shape[2:], mode="trilinear", align_corners=False)


def _bend(channels: torch.Tensor, exponent: np.ndarray, brain: torch.Tensor) -> torch.Tensor:
    """(n, D, H, W), each by its own exponent (n,).

    No branch depends on the values, so that a GPU need not be waited for.
    """
    volume = (1, 2, 3)
    count = brain.sum(volume, keepdim=True).clamp_min(1)

    def mean_and_std(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.where(brain, values, 0).sum(volume, keepdim=True) / count
        squares = torch.where(brain, (values - mean) ** 2, 0)
        return mean, (squares.sum(volume, keepdim=True) / count).sqrt()

    low = torch.where(brain, channels, torch.inf).amin(volume, keepdim=True)
    high = torch.where(brain, channels, -torch.inf).amax(volume, keepdim=True)
    share = torch.where(brain, (channels - low) / (high - low).clamp_min(1e-8), 0)
    bent = share ** _per_channel(exponent, channels)
    (mean, std), (bent_mean, bent_std) = mean_and_std(channels), mean_and_std(bent)
    return torch.where(brain, (bent - bent_mean) / bent_std.clamp_min(1e-8) * std + mean, 0)
