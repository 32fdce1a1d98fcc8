"""The networks without Mamba that a study compares with: the U-Net, and for every Mamba depth a control of the same size."""

import dataclasses

import torch

from segmamba.errors import UserError
from segmamba.models.segmamba import Plan, SegMamba, segmamba_plan

TOLERANCE = 0.02  # largest difference in parameters between a network and its control, as a share


def unet_plan(config):
    """Conv blocks at every level: stage 4 and the bottleneck have as many as stage 3."""
    plan = segmamba_plan(config)
    return Plan(
        plan.widths,
        (*config.conv_depths, config.conv_depths[-1], config.conv_depths[-1]),
        (0,) * len(plan.widths),
    )


def control_plan(config):
    """The network of depth 0, with stage 3, stage 4 and the bottleneck widened until it has the parameters of `mamba_depths`.

    The widening goes where the Mamba blocks were. Of the widths within TOLERANCE those with the largest common factor of 8, 4, 2
    and 1 are taken, since GPUs convolve multiples of 8 channels fastest.
    """
    plan = segmamba_plan(config)
    if not any(plan.mambas):
        return plan
    wanted = _parameters(config, plan)
    found = next(
        filter(None, (_widened(config, plan, wanted, factor) for factor in (8, 4, 2, 1))), None
    )
    if found is None:
        raise UserError(
            f"model.name = 'control': no widths come within {TOLERANCE:.0%} of {wanted} parameters; raise model.base_channels"
        )
    return found


def _widened(config, plan, wanted, factor):
    """The plan without Mamba whose parameters are nearest to `wanted`, or None if they are not near enough. Bisects the stretch."""
    low, high, best = 1.0, 4.0, None
    for _ in range(16):
        stretch = (low + high) / 2
        widths = plan.widths[:2] + tuple(
            max(round(w * stretch / factor), 1) * factor for w in plan.widths[2:]
        )
        candidate = dataclasses.replace(plan, widths=widths, mambas=(0,) * len(widths))
        surplus = _parameters(config, candidate) / wanted - 1
        if best is None or abs(surplus) < best[0]:
            best = abs(surplus), candidate
        low, high = (stretch, high) if surplus < 0 else (low, stretch)
    return best[1] if best[0] < TOLERANCE else None


def _parameters(config, plan):
    with torch.device("meta"):
        return sum(p.numel() for p in SegMamba(config, plan).parameters())
