"""What a voxel shows: noise, blur, contrast and brightness, low resolution, gamma.

Legend: B batch, C channels, (D, H, W) the patch; strengths are NumPy (B, C), a channel's own; `image` is float (B, C, D, H, W).
The ranges in AugmentConfig are nnU-Net v2's (nnUNetTrainer.get_training_transforms; Isensee et al. 2021, supplement).
"""

import math

import torch
import torch.nn.functional as F

BLUR_REACH = 3  # the kernel is cut at so many standard deviations


def add_noise(image, std, seeds):
    """Normal noise of standard deviation `std` (B, C); 0 is none. seeds: one int per patch; other kinds of device draw other noise."""
    image = image.clone()
    for patch, stds, seed in zip(image, std, seeds, strict=True):
        if stds.any():
            generator = torch.Generator(image.device).manual_seed(seed)
            noise = torch.randn(patch.shape, generator=generator, device=image.device, dtype=image.dtype)
            patch += noise * _column(stds, image)
    return image


def blur(image, sigma):
    """Gaussian of standard deviation `sigma` (B, C), in voxels; 0 is none."""
    return _where_on(image, sigma > 0, lambda channels, on: _gaussian(channels, sigma[on]))


def shift_and_stretch(image, brightness, contrast):
    """contrast * x + brightness, both (B, C)."""
    gain, offset = (torch.as_tensor(v, device=image.device, dtype=image.dtype)[:, :, None, None, None] for v in (contrast, brightness))
    return image * gain + offset


def lower_resolution(image, zoom):
    """Every channel shrunk to `zoom` (B, C) of its sides, by nearest neighbour, and brought back by linear interpolation; 1 is none."""

    def shrink(channels, on):
        return torch.cat([_shrink_one(channel[None, None], z)[0] for channel, z in zip(channels, zoom[on], strict=True)])

    return _where_on(image, zoom < 1, shrink)


def gamma(image, exponent, brain):
    """x^exponent on the channel's range within the brain, its mean and standard deviation kept; exponent (B, C), 1 is none.

    brain: bool, the image's shape.
    """
    chosen = torch.as_tensor(exponent != 1, device=image.device)
    return _where_on(image, exponent != 1, lambda channels, on: _bend(channels, exponent[on], brain[chosen]))


def _where_on(image, on, change):
    """`image` with change(channels (n, D, H, W), on) in place of the n channels where `on`, NumPy bool (B, C), is true."""
    if not on.any():
        return image
    image, chosen = image.clone(), torch.as_tensor(on, device=image.device)
    image[chosen] = change(image[chosen], on)
    return image


def _column(values, image):
    return torch.as_tensor(values, device=image.device, dtype=image.dtype)[:, None, None, None]


def _gaussian(channels, sigma):
    """(n, D, H, W), each blurred by its own sigma (n,), one axis after the other; the edge's values go on beyond it."""
    reach = math.ceil(BLUR_REACH * float(sigma.max()))
    offset = torch.arange(-reach, reach + 1, device=channels.device)
    taps = torch.exp(-0.5 * (offset / torch.as_tensor(sigma, device=channels.device)[:, None]) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).to(channels.dtype)  # (n, 2 reach + 1)
    for axis in (1, 2, 3):
        margins = [0] * 6
        margins[2 * (3 - axis)] = margins[2 * (3 - axis) + 1] = reach
        padded = F.pad(channels[None], margins, mode="replicate")[0]
        side = channels.shape[axis]
        channels = sum(taps[:, i, None, None, None] * padded.narrow(axis, i, side) for i in range(2 * reach + 1))
    return channels


def _shrink_one(channel, zoom):
    """(1, 1, D, H, W)."""
    small = F.interpolate(channel, size=[max(1, round(n * float(zoom))) for n in channel.shape[2:]], mode="nearest-exact")
    return F.interpolate(small, size=channel.shape[2:], mode="trilinear", align_corners=False)


def _bend(channels, exponent, brain):
    """(n, D, H, W), each by its own exponent (n,). Without a branch on the values, so that a GPU need not be waited for."""
    volume = (1, 2, 3)
    count = brain.sum(volume, keepdim=True).clamp_min(1)

    def mean_and_std(values):
        mean = torch.where(brain, values, 0).sum(volume, keepdim=True) / count
        return mean, (torch.where(brain, (values - mean) ** 2, 0).sum(volume, keepdim=True) / count).sqrt()

    low = torch.where(brain, channels, torch.inf).amin(volume, keepdim=True)
    high = torch.where(brain, channels, -torch.inf).amax(volume, keepdim=True)
    share = torch.where(brain, (channels - low) / (high - low).clamp_min(1e-8), 0)
    bent = share ** _column(exponent, channels)
    (mean, std), (bent_mean, bent_std) = mean_and_std(channels), mean_and_std(bent)
    return torch.where(brain, (bent - bent_mean) / bent_std.clamp_min(1e-8) * std + mean, 0)
