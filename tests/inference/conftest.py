"""Untrained runs with checkpoint and configuration, and the scans they predict."""

import nibabel
import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.models import build_model
from tests.conftest import write_case
from tests.tiny import TINY

CONFIG = TINY.changed(
    {
        "model.base_channels": 4,
        "model.mamba_depths": (1, 1, 1),
        "data.patch_size": (32, 32, 16),
    }
)
"""A case of 40x44x24 voxels takes several windows along every axis."""


def write_run(folder, seed=0, **changes):
    """A run's folder with random weights; returns (folder, Config).

    Its norms have statistics, and it predicts tumour.
    """
    config = CONFIG.changed({"seed": seed, **changes})
    torch.manual_seed(seed)
    model = build_model(config.model)
    with torch.no_grad():
        model.train()(torch.randn(2, 4, *config.data.patch_size))
        model.head.weight.mul_(4)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), folder / "checkpoints" / "best_metric_model.pth")
    (folder / "config.json").write_text(config.to_json())
    return folder, config


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")[0]


@pytest.fixture
def case(tmp_path):
    """An unlabelled case of 40x44x24 voxels of 1 x 1 x 1.5 mm."""
    write_case(
        tmp_path / "data",
        "X",
        shape=(40, 44, 24),
        affine=np.diag([-1.0, -1.0, 1.5, 1.0]),
        label=False,
    )
    (case,) = find_cases(tmp_path / "data")
    return case


def write_case_with_background(folder):
    """A case of 40x44x24 voxels of 1 mm; a quarter of the box around its brain is background."""
    write_case(folder, "X", shape=(40, 44, 24), label=False)
    (case,) = find_cases(folder)
    for path in case.images.values():
        file = nibabel.load(path)
        voxels = np.asanyarray(file.dataobj).copy()
        voxels[20:, 22:] = 0
        nibabel.save(nibabel.Nifti1Image(voxels, file.affine), path)
    return case
