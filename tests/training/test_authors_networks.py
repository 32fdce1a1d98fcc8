"""The field's Mamba networks train, go on, are estimated and predict as ours do."""

import pytest

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.phantom import write_phantom
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.data.volumes import read_scan
from segmamba.inference.export import export_bundle
from segmamba.inference.predictor import load_predictor
from segmamba.training.advice import advice
from segmamba.training.memory import estimate_training_memory
from segmamba.training.run import train_run
from segmamba.training.run_folder import RunFolder
from tests.tiny import CPU, TINY

NAMES = ["segmamba_xing", "segmamba_v2", "umamba_bot", "umamba_enc"]


def config_of(name, **changes):
    supervised = {"model.deep_supervision": 3} if name.startswith("umamba") else {}
    return TINY.changed(
        {
            "model.name": name,
            "model.base_channels": 4,
            "data.patch_size": (32, 32, 32),
            "data.spacing_mm": 4.0,
            "data.pad_to_patch": True,
        }
        | supervised
        | changes
    )


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """(cases, split) of three phantoms of 48x48x48 voxels, prepared at 4 mm."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "data", cases=3, size=(48, 48, 48), seed=0)
    cases, config = find_cases(folder / "data"), config_of(NAMES[0])
    return cases, split_cases(prepare_cases(cases, folder / "cache", config.data), config.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_and_predicts_a_phantom(name, phantom, tmp_path):
    cases, data = phantom
    folder, config = RunFolder(tmp_path), config_of(name, **{"train.epochs": 2})
    (first,) = train_run(config.changed({"train.epochs": 1}), data, folder, CPU)
    assert first.metrics["train/loss"] > 0
    epochs = list(train_run(config, data, folder, CPU))
    assert [epoch.number for epoch in epochs] == [2], "it goes on from its checkpoint"
    assert epochs[-1].metrics["train/loss"] < first.metrics["train/loss"]
    predictor = load_predictor(tmp_path, "cpu")
    assert predictor.members[0].config.model.planned_for == config.model.planned_for
    assert not predictor.notes
    assert predictor.predict(read_scan(cases[0])).shape == (48, 48, 48)
    assert (export_bundle(tmp_path, tmp_path / "bundle") / "models" / "model.pt").is_file()


def test_memory_is_estimated_and_a_smaller_patch_is_advised():
    changes = {"data.patch_size": (64, 32, 32), "train.batch_size": 1}
    config = config_of("umamba_enc", **changes)
    whole = estimate_training_memory(config, device_type="cuda").total
    line = advice(config, "cuda:0", 0.95 * whole, None)
    assert "--set data.patch_size=48,32,32 --set model.planned_for=48,32,32" in line


def test_patches_that_a_network_does_not_take_are_not_advised():
    pytest.importorskip("monai")
    changes = {"model.name": "dynunet", "data.patch_size": (96, 96, 64), "train.batch_size": 1}
    config = preset("demo").changed(changes)
    whole = estimate_training_memory(config, device_type="cuda").total
    assert "data.patch_size=64,64,64" in advice(config, "cuda:0", 0.7 * whole, None)
    assert "no smaller batch or patch" in advice(config, "cuda:0", 0.2 * whole, None)
