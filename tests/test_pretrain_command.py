"""`segmamba pretrain` as a user types it."""

import json
import os

import pytest
import torch

from segmamba import leftovers
from segmamba.config import load_config
from segmamba.leftovers import temporary_beside
from segmamba.models import build_model
from segmamba.models.transfer import start_from
from segmamba.models.weights import load_checkpoint
from tests.conftest import write_case
from tests.test_cli import segmamba

TINY = {
    "data.spacing_mm": 1.0,
    "data.patch_size": "16,16,16",
    "model.base_channels": 2,
    "model.d_state": 2,
    "train.steps_per_epoch": 2,
}
OPTIONS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def folder(tmp_path):
    for number in range(7):
        write_case(
            tmp_path / "data",
            f"BraTS20_Training_{number:03d}",
            seed=number,
            shape=(24, 24, 20),
            label=number < 5,
        )
    return tmp_path


def test_it_leaves_weights_that_a_network_of_its_configuration_starts_from(folder):
    result = segmamba("pretrain", "--data", "data", "--epochs", 2, *OPTIONS, "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [epoch["epoch"] for epoch in printed["epochs"]] == [1, 2] and printed["cases"] == 5, (
        "three to train on, two without labels"
    )
    config = load_config(folder / "Results" / "SegMamba_Pretrain_Run01" / "config.json")
    weights = load_checkpoint(folder / printed["weights"])
    model = build_model(config.model)
    before = model.head.weight.clone()
    start_from(model, weights, printed["weights"])
    assert torch.equal(model.stem.conv1.weight, weights["stem.conv1.weight"]) and torch.equal(
        model.head.weight, before
    )


def test_a_data_set_without_any_label_serves_whole_and_resume_starts_where_there_is_nothing(
    folder, monkeypatch
):
    for number in range(5):
        (
            folder
            / "data"
            / f"BraTS20_Training_{number:03d}"
            / f"BraTS20_Training_{number:03d}_seg.nii.gz"
        ).unlink()
    result = segmamba("pretrain", "--data", "data", "--epochs", 1, *OPTIONS, "--resume", cwd=folder)
    assert (
        result.returncode == 0
        and "no unfinished pretraining found" in result.stderr
        and "cases    7" in result.stderr
    )
    (folder / "Results" / "SegMamba_Pretrain_Run01" / "checkpoints" / "pretrained.pth").unlink()
    other = segmamba("pretrain", "--data", "data", "--epochs", 2, *OPTIONS, "--resume", cwd=folder)
    assert other.returncode == 2 and "begun with other settings" in other.stderr
    with monkeypatch.context() as killed:
        killed.setattr(os, "getpid", lambda: 2**22 + 1)  # no process has that number
        left = temporary_beside(
            folder / "Results" / "SegMamba_Pretrain_Run01" / "checkpoints" / "x"
        )
    left.write_text("half")
    same = segmamba("pretrain", "--data", "data", "--epochs", 1, *OPTIONS, "--resume", cwd=folder)
    assert same.returncode == 0 and (leftovers.SYSTEM == "" or not left.exists())


def test_a_network_of_others_is_refused_in_one_line(folder):
    result = segmamba("pretrain", "--data", "data", "--set", "model.name=dynunet", cwd=folder)
    assert (
        result.returncode == 2
        and "only segmamba, unet, control can be pretrained" in result.stderr
        and result.stderr.count("\n") == 1
    )
