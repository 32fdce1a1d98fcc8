"""The presets as differences from the defaults, which are `paper`."""

from segmamba.config.tree import Config
from segmamba.errors import UserError

PRESETS: dict[str, dict[str, object]] = {
    "paper": {},  # the defaults, exactly
    # An hour on one GPU for a study of a few arms: the paper's network and patch, and a short
    # schedule with its own warm-up.
    "quick": {
        "train.epochs": 30,
        "train.steps_per_epoch": 100,
        "train.accumulation": 1,
        "optim.lr": 3e-4,
        "optim.warmup_epochs": 2,
        "data.validation_cases": 8,
        "phantom.cases": 40,
    },
    # Minutes on two CPU cores: a 3 mm grid, so that a whole head is 64x64x48 voxels, and a narrow
    # network.
    "demo": {
        "data.spacing_mm": 3.0,
        "data.patch_size": (48, 48, 32),
        "data.pad_to_patch": True,
        "data.workers": 0,
        "data.validation_cases": 4,
        "model.base_channels": 8,
        "model.conv_depths": (1, 1, 1),
        "model.d_state": 8,
        "optim.lr": 3e-3,
        "optim.min_lr": 1e-5,
        "optim.warmup_epochs": 1,
        "train.epochs": 6,
        "train.steps_per_epoch": 20,
        "train.accumulation": 1,
        "train.validate_every_epochs": 3,
        "phantom.cases": 30,
        "phantom.size": (64, 64, 48),
    },
}


def preset(name: str) -> Config:
    """Build the configuration of a preset.

    Args:
        name: demo, quick or paper.

    Returns:
        The configuration.

    Raises:
        UserError: There is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return Config().changed(PRESETS[name])
