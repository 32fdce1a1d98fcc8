"""What a voxel shows: noise, blur, contrast and brightness, low resolution, gamma.

Legend: B batch, C channels, (D, H, W) the patch; strengths are NumPy (B, C), a channel's own; `image` is float (B, C, D, H, W).
The ranges in AugmentConfig are nnU-Net v2's (nnUNetTrainer.get_training_transforms; Isensee et al. 2021, supplement).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.feed import sent

BLUR_REACH = 3  # the kernel is cut at so many standard deviations


def add_noise(image, std, seeds):
    """Normal noise of standard deviation `std` (B, C); 0 is none. seeds: one int per patch; other kinds of device draw other noise."""
    image, strength = image.clone(), _spread(std, image)
    for row in np.flatnonzero(std.any(axis=1)):
        generator = torch.Generator(image.device).manual_seed(seeds[row])
        image[row].addcmul_(
            torch.randn(
                image.shape[1:], generator=generator, device=image.device, dtype=image.dtype
            ),
            strength[row],
        )
    return image


def blur(image, sigma):
    """Gaussian of standard deviation `sigma` (B, C), in voxels; 0 is none."""
    on = sigma > 0
    return _where_on(image, on, lambda channels, _: _gaussian(channels, sigma[on]))


def shift_and_stretch(image, brightness, contrast):
    """contrast * x + brightness, both (B, C)."""
    gain, offset = _spread(np.stack([contrast, brightness]), image)
    return torch.addcmul(offset, image, gain)


def lower_resolution(image, zoom):
    """Every channel shrunk to `zoom` (B, C) of its sides, by nearest neighbour, and brought back by linear interpolation; 1 is none."""

    on = zoom < 1

    def shrink(channels, _):
        return torch.cat(
            [
                _shrink_one(channel[None, None], z)[0]
                for channel, z in zip(channels, zoom[on], strict=True)
            ]
        )

    return _where_on(image, on, shrink)


def gamma(image, exponent, brain):
    """x^exponent on the channel's range within the brain, its mean and standard deviation kept; exponent (B, C), 1 is none.

    brain: bool, the image's shape.
    """
    on = exponent != 1
    return _where_on(
        image,
        on,
        lambda channels, chosen: _bend(channels, exponent[on], brain.flatten(0, 1)[chosen]),
    )


def _where_on(image, on, change):
    """`image` with change(channels (n, D, H, W), chosen) in place of the n channels where `on`, NumPy bool (B, C), is true.

    chosen: their places on the device among all B x C; from a mask there, a GPU would have to be asked for the number.
    """
    if not on.any():
        return image
    channels, chosen = image.flatten(0, 1), sent(np.flatnonzero(on), image.device)
    return channels.index_copy(0, chosen, change(channels[chosen], chosen)).view(image.shape)


def _spread(values, image):
    """NumPy (...) as a tensor (..., 1, 1, 1) beside the image."""
    return sent(values, image.device).to(image.dtype)[..., None, None, None]


def _gaussian(channels, sigma):
    """(n, D, H, W), each blurred by its own sigma (n,), one axis after the other; the edge's values go on beyond it."""
    reach = math.ceil(BLUR_REACH * float(sigma.max()))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma[:, None]) ** 2)
    taps = _spread((taps / taps.sum(1, keepdims=True)).T, channels)  # (2 reach + 1, n, 1, 1, 1)
    for axis in (1, 2, 3):
        margins = [0] * 6
        margins[2 * (3 - axis)] = margins[2 * (3 - axis) + 1] = reach
        padded = F.pad(channels[None], margins, mode="replicate")[0]
        side = channels.shape[axis]
        channels = taps[0] * padded.narrow(axis, 0, side)
        for place in range(1, len(taps)):
            channels.addcmul_(taps[place], padded.narrow(axis, place, side))
    return channels


def _shrink_one(channel, zoom):
    """(1, 1, D, H, W)."""
    small = F.interpolate(
        channel,
        size=[max(1, round(n * float(zoom))) for n in channel.shape[2:]],
        mode="nearest-exact",
    )
    return F.interpolate(small, size=channel.shape[2:], mode="trilinear", align_corners=False)


def _bend(channels, exponent, brain):
    """(n, D, H, W), each by its own exponent (n,). Without a branch on the values, so that a GPU need not be waited for."""
    volume = (1, 2, 3)
    count = brain.sum(volume, keepdim=True).clamp_min(1)

    def mean_and_std(values):
        mean = torch.where(brain, values, 0).sum(volume, keepdim=True) / count
        return mean, (
            torch.where(brain, (values - mean) ** 2, 0).sum(volume, keepdim=True) / count
        ).sqrt()

    low = torch.where(brain, channels, torch.inf).amin(volume, keepdim=True)
    high = torch.where(brain, channels, -torch.inf).amax(volume, keepdim=True)
    share = torch.where(brain, (channels - low) / (high - low).clamp_min(1e-8), 0)
    bent = share ** _spread(exponent, channels)
    (mean, std), (bent_mean, bent_std) = mean_and_std(channels), mean_and_std(bent)
    return torch.where(brain, (bent - bent_mean) / bent_std.clamp_min(1e-8) * std + mean, 0)
