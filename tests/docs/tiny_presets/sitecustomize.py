"""Makes every preset train within seconds, in processes that find this folder on PYTHONPATH.

The commands of the documentation are run as they stand, on any preset.
"""

from segmamba.config.presets import PRESETS

TINY = {
    "data.spacing_mm": 3.0,
    "data.patch_size": (32, 32, 32),
    "data.pad_to_patch": True,
    "data.workers": 0,
    "model.base_channels": 2,
    "model.conv_depths": (1, 1, 1),
    "model.mamba_depths": (1, 1, 1),
    "model.d_state": 2,
    "train.epochs": 1,
    "train.steps_per_epoch": 2,
    "train.accumulation": 1,
    "train.validate_every_epochs": 1,
    "optim.warmup_epochs": 0,
    "phantom.cases": 8,
    "phantom.size": (48, 48, 48),
}

for changes in PRESETS.values():
    changes.update(TINY)
