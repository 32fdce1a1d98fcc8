"""What to say when a GPU's memory is too small: what would fit, by estimate."""

import torch

from segmamba.config import LEVELS
from segmamba.device import mixed_dtype
from segmamba.training.memory import estimate_training_memory

GIB = 2**30
SIDES = (128, 96, 64, 48, 32)
"""Longest sides of the smaller patches that are tried, in voxels."""


def memory_advice(config, device):
    """One line for a Config that ran out of the device's memory."""
    return advice(
        config, str(device), _available(device), mixed_dtype(device, config.train.precision)
    )


def advice(config, name, available, dtype):
    """As `memory_advice`, for a device called `name` with `available` bytes that computes in autocast type `dtype`."""
    needed = estimate_training_memory(config, device_type="cuda", dtype=dtype).total
    fitting = {}
    for changes in _smaller(config):
        kind = tuple(changes)
        if kind not in fitting:  # the mildest of each kind is enough
            estimate = estimate_training_memory(
                config.changed(changes), device_type="cuda", dtype=dtype
            ).total
            if estimate <= available:
                fitting[kind] = f"{_as_options(changes)} ({estimate / GIB:.1f} GiB)"
    told = "; ".join(fitting.values())
    return (
        f"out of memory on {name}: a step takes about {needed / GIB:.1f} GiB and {available / GIB:.1f} GiB are there; "
        + (
            f"what would fit, by estimate: {told}"
            if told
            else "no smaller batch or patch would fit; lower model.base_channels"
        )
    )


def _smaller(config):
    """Changes to try, of each kind the mildest first: batch, activation checkpointing, both, patch."""
    train, batches = config.train, []
    for size in range(train.batch_size // 2, 0, -1):
        if train.batch_size % size == 0:  # the effective batch stays
            batches.append(
                {
                    "train.batch_size": size,
                    "train.accumulation": train.batch_size * train.accumulation // size,
                }
            )
    stages = {"model.checkpoint_stages": tuple(range(1, LEVELS + 1))}
    can_checkpoint = (
        config.model.name in ("segmamba", "control", "unet")
        and config.model.checkpoint_stages != stages["model.checkpoint_stages"]
    )
    yield from batches
    if can_checkpoint:
        yield stages
        yield from (batch | stages for batch in batches)
    for side in SIDES:
        patch = tuple(min(n, side) for n in config.data.patch_size)
        if patch != config.data.patch_size:
            yield {"data.patch_size": patch}


def _as_options(changes):
    values = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in changes.items()
    }
    return " ".join(f"--set {name}={value}" for name, value in values.items())


def _available(device):
    """Bytes that this process has or could have."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)
