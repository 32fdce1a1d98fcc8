"""What a user can change when a GPU's memory is too small, by estimate."""

from collections.abc import Iterator
from typing import Any

import torch

from segmamba.config import LEVELS, Config
from segmamba.config.model import OURS
from segmamba.device import mixed_dtype
from segmamba.errors import UserError
from segmamba.models import side_multiples
from segmamba.models.segmamba import check_sides
from segmamba.training.memory import estimate_training_memory

GIB = 2**30
SIDES = (128, 96, 64, 48, 32)
"""Longest sides of the smaller patches that are tried, in voxels."""
Changes = dict[str, Any]
"""Dotted changes of a Config."""


def memory_advice(config: Config, device: torch.device) -> str:
    """Return one line for a run that ran out of a GPU's memory: what would fit.

    Args:
        config: The configuration of the run.
        device: The GPU.

    Returns:
        See `advice`.
    """
    return advice(
        config, str(device), _available(device), mixed_dtype(device, config.train.precision)
    )


def advice(
    config: Config, device_name: str, available_bytes: float, dtype: torch.dtype | None
) -> str:
    """Return one line on what a run needs, what is there, and what would fit.

    Args:
        config: The configuration of the run.
        device_name: What the line calls the device.
        available_bytes: Memory that the run can have.
        dtype: The autocast type of its forward passes; None is fp32.

    Returns:
        The line, with the mildest change of each kind that would fit.
    """
    needed = estimate_training_memory(config, device_type="cuda", dtype=dtype).total
    fitting: dict[tuple[str, ...], str] = {}
    for changes in _smaller(config):
        kind = tuple(changes)
        if kind not in fitting:  # the mildest of each kind is enough
            estimate = _estimate(config, changes, dtype)
            if estimate is not None and estimate <= available_bytes:
                fitting[kind] = f"{_as_options(changes)} ({estimate / GIB:.1f} GiB)"
    alternatives = "; ".join(fitting.values())
    return (
        f"out of memory on {device_name}: a step takes about {needed / GIB:.1f} GiB and "
        f"{available_bytes / GIB:.1f} GiB are there; "
        + (
            f"what would fit, by estimate: {alternatives}"
            if alternatives
            else "no smaller batch or patch would fit; lower model.base_channels"
        )
    )


def _estimate(config: Config, changes: Changes, dtype: torch.dtype | None) -> int | None:
    """Estimate a step with changes; None where the network does not take them."""
    try:
        changed = config.changed(changes)
        check_sides(changed.data.patch_size, side_multiples(changed.model))
        return estimate_training_memory(changed, device_type="cuda", dtype=dtype).total
    except (UserError, ValueError):  # torch's, of a norm that is left with one voxel
        return None


def _smaller(config: Config) -> Iterator[Changes]:
    """Yield changes, the mildest first: batch, activation checkpointing, both, patch."""
    train = config.train
    batches: list[Changes] = []
    for size in range(train.batch_size // 2, 0, -1):
        if train.batch_size % size == 0:  # the effective batch stays
            accumulation = train.batch_size * train.accumulation // size
            batches.append({"train.batch_size": size, "train.accumulation": accumulation})
    all_stages = tuple(range(1, LEVELS + 1))
    stages: Changes = {"model.checkpoint_stages": all_stages}
    can_checkpoint = config.model.name in OURS and config.model.checkpoint_stages != all_stages
    yield from batches
    if can_checkpoint:
        yield stages
        yield from (batch | stages for batch in batches)
    for side in SIDES:
        patch = tuple(min(n, side) for n in config.data.patch_size)
        if patch != config.data.patch_size:
            # U-Mamba is planned for its patch
            planned = {"model.planned_for": patch} if config.model.planned_for else {}
            yield {"data.patch_size": patch, **planned}


def _as_options(changes: Changes) -> str:
    values = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in changes.items()
    }
    return " ".join(f"--set {name}={value}" for name, value in values.items())


def _available(device: torch.device) -> int:
    """Return the bytes that this process has or could have."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)
