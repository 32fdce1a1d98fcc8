"""A network's output channels, at every resolution, and the probabilities that they mean."""

import dataclasses

import pytest
import torch

from segmamba.config import ModelConfig
from segmamba.data.label_sets import GLIOMA, PEDIATRIC, POST_TREATMENT
from segmamba.models import build_model
from segmamba.models.describe import describe_network
from segmamba.models.outputs import Channels, output_channels, probabilities
from segmamba.training.memory import estimate_training_memory
from tests.tiny import TINY

SMALL = TINY.changed(
    {
        "model.base_channels": 4,
        "model.mamba_depths": (1, 1, 1),
        "model.deep_supervision": 1,
    }
).model


@pytest.mark.parametrize("name", ["segmamba", "unet", "control"])
@pytest.mark.parametrize("outputs", ["classes", "regions"])
@pytest.mark.parametrize("labels", [GLIOMA, POST_TREATMENT, PEDIATRIC], ids=lambda s: s.name)
def test_a_network_has_one_channel_for_each_class_or_region_at_every_resolution(
    name, outputs, labels
):
    config = dataclasses.replace(SMALL, name=name, outputs=outputs, classes=labels.name)
    fine, coarse = build_model(config).train()(torch.randn(2, 4, 16, 16, 16))
    names = output_channels(config).names
    assert names == (labels.region_names if outputs == "regions" else labels.classes)
    assert fine.shape == (2, len(names), 16, 16, 16)
    assert coarse.shape == (2, len(names), 8, 8, 8)


@pytest.mark.parametrize("name", ["dynunet", "segresnet"])
def test_the_fields_networks_predict_regions_too(name):
    pytest.importorskip("monai")
    model = build_model(ModelConfig(name=name, base_channels=8, outputs="regions"))
    assert model.eval()(torch.randn(1, 4, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


def test_classes_share_a_voxel_and_regions_do_not():
    logits = torch.randn(2, 4, 3, 3, 3).half()
    classes = probabilities(logits, Channels(GLIOMA, are_regions=False))
    regions = probabilities(logits[:, :3], Channels(GLIOMA, are_regions=True))
    assert classes.dtype == regions.dtype == torch.float32
    assert torch.allclose(classes.sum(1), torch.ones(2, 3, 3, 3))
    assert torch.equal(regions, logits[:, :3].float().sigmoid())


def test_description_and_memory_follow_the_outputs():
    config = TINY
    regions = config.changed({"model.outputs": "regions"})
    heads = [
        describe_network(c.model, patch_size=(16, 16, 16), batch_size=2)[-1].output
        for c in (config, regions)
    ]
    assert heads == [(2, 4, 16, 16, 16), (2, 3, 16, 16, 16)]
    assert estimate_training_memory(config, device_type="cuda").kept > 0
    assert estimate_training_memory(regions, device_type="cuda").kept > 0
