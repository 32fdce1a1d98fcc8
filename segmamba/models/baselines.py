"""The networks without Mamba that a study compares with.

They are the U-Net and, for every Mamba depth, a control of the same size.
"""

import dataclasses

import torch

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models.mixers import TOLERANCE
from segmamba.models.segmamba import SegMamba, StagePlan, segmamba_plan


def unet_plan(config: ModelConfig) -> StagePlan:
    """Plan the U-Net: conv blocks at every level.

    Args:
        config: The settings; `mamba_depths` has no effect.

    Returns:
        A plan whose stage 4 and bottleneck have as many conv blocks as stage 3.
    """
    plan = segmamba_plan(config)
    deepest = config.conv_depths[-1]
    return StagePlan(plan.widths, (*config.conv_depths, deepest, deepest), (0,) * len(plan.widths))


def control_plan(config: ModelConfig) -> StagePlan:
    """Plan the control: the network of depth 0, with the parameters of `mamba_depths`.

    Stage 3, stage 4 and the bottleneck are widened, which is where the Mamba blocks were. Of the
    widths within TOLERANCE those with the largest common factor of 8, 4, 2 and 1 are taken, since
    GPUs convolve multiples of 8 channels fastest.

    Args:
        config: The settings of the network that the control stands beside.

    Returns:
        A plan without Mamba blocks; SegMamba's own plan where it has none either.

    Raises:
        UserError: No widths come within TOLERANCE.
    """
    plan = segmamba_plan(config)
    if not any(plan.mambas):
        return plan
    wanted = _parameters(config, plan)
    candidates = (_widened(config, plan, wanted, factor) for factor in (8, 4, 2, 1))
    control = next(filter(None, candidates), None)
    if control is None:
        raise UserError(
            f"model.name = 'control': no widths come within {TOLERANCE:.0%} of {wanted} "
            "parameters; raise model.base_channels"
        )
    return control


def _widened(config: ModelConfig, plan: StagePlan, wanted: int, factor: int) -> StagePlan | None:
    """Bisect the stretch for the plan without Mamba whose parameters are nearest to `wanted`.

    The result is None where the nearest is not within TOLERANCE.
    """
    low, high = 1.0, 4.0
    nearest: tuple[float, StagePlan] | None = None
    for _ in range(16):
        stretch = (low + high) / 2
        widths = plan.widths[:2] + tuple(
            max(round(w * stretch / factor), 1) * factor for w in plan.widths[2:]
        )
        candidate = dataclasses.replace(plan, widths=widths, mambas=(0,) * len(widths))
        surplus = _parameters(config, candidate) / wanted - 1
        if nearest is None or abs(surplus) < nearest[0]:
            nearest = abs(surplus), candidate
        low, high = (stretch, high) if surplus < 0 else (low, stretch)
    return nearest[1] if nearest and nearest[0] < TOLERANCE else None


def _parameters(config: ModelConfig, plan: StagePlan) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in SegMamba(config, plan).parameters())
