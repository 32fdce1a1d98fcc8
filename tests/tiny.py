"""The one tiny configuration of the tests: a network that trains an epoch within a second."""

import torch

from segmamba.config import preset

CPU = torch.device("cpu")
TINY_CHANGES = {
    "data.spacing_mm": 1.0,
    "data.patch_size": (16, 16, 16),
    "data.workers": 0,
    "model.base_channels": 2,
    "model.conv_depths": (1, 1, 1),
    "model.mamba_depths": (1, 0, 1),
    "model.d_state": 2,
    "train.epochs": 3,
    "train.steps_per_epoch": 2,
    "train.validate_every_epochs": 1,
    "optim.warmup_epochs": 1,
}
TINY = preset("demo").changed(TINY_CHANGES)
"""For cases of 1 mm with sides of at least 16 voxels, as `tests.conftest.write_case` makes them."""
