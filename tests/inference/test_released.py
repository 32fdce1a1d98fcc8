"""Weights that other authors released predict as they were meant, or are refused with a reason."""

import json

import numpy as np
import pytest
import torch

from segmamba.config import ModelConfig, preset
from segmamba.data.labels import MODALITIES
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference.ensemble_member import load_member
from segmamba.inference.predictor import load_predictor
from segmamba.inference.prepared_scan import normalised_over_box
from segmamba.models import build_model
from segmamba.models.released import XING_CHANNELS
from segmamba.training.initial_weights import initial_weights
from segmamba.training.run_folder import RunFolder
from tests.inference.conftest import write_case_with_background
from tests.tiny import CPU, TINY
from tests.training.test_initial_weights import Told

WINDOW = (32, 16, 48)
CHANNELS = {"0": "flair", "1": "T1w", "2": "T1Gd", "3": "t2"}
"""As nnU-Net's dataset.json names them."""
LABELS = {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}


def network(name, **changes):
    torch.manual_seed(0)
    return build_model(ModelConfig(name=name, **{"base_channels": 2, "d_state": 3} | changes))


def xing_file(folder, name="segmamba_xing", wrap=lambda state: state):
    model = network(name).eval()
    path = folder / "final_model_0.9038.pt"
    torch.save(wrap(model.state_dict()), path)
    return path, model


def plan(**changes):
    """nnU-Net's plan of a patch (z, y, x) of 48x16x32 voxels."""
    return {
        "patch_size": [48, 16, 32],
        "spacing": [1.0, 1.0, 1.0],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 1, 2]],
        "normalization_schemes": ["ZScoreNormalization"] * 4,
    } | changes


def nnunet_file(folder, name="umamba_enc", channels=CHANNELS, labels=LABELS, **changes):
    # of an array (z, y, x); a layer norm of two channels would be all but a sign
    model = network(name, planned_for=(48, 16, 32), base_channels=8).eval()
    content = {
        "network_weights": model.state_dict(),
        "trainer_name": "nnUNetTrainerUMambaEnc",
        "init_args": {
            "plans": {
                "transpose_forward": [0, 1, 2],
                "configurations": {"3d_fullres": plan(**changes)},
            },
            "configuration": "3d_fullres",
            "dataset_json": {"channel_names": channels, "labels": labels},
            "device": torch.device("cpu"),
        },
    }
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    return path, model


def meant(model, image, inputs, outputs):
    """The probabilities of a network of arrays (z, y, x) with its own channels, in our order."""
    order = [MODALITIES.index(name) for name in inputs]
    with torch.no_grad():
        logits = model(image[order].permute(0, 3, 2, 1)[None])[0].permute(0, 3, 2, 1)
    classes = ("background", "NCR", "ED", "ET")
    return logits.softmax(0)[[outputs.index(name) for name in classes]]


@pytest.mark.parametrize("name", ["segmamba_xing", "segmamba_v2"])
def test_released_segmamba_gets_its_channels_and_axes_in_its_own_order(tmp_path, name):
    path, model = xing_file(tmp_path, name, lambda s: {f"module.{k}": v for k, v in s.items()})
    member = load_member(path, CPU, changes={"data.patch_size": WINDOW})
    image = torch.randn(4, *WINDOW, generator=torch.Generator().manual_seed(1))
    wanted = meant(model, image, XING_CHANNELS.inputs, XING_CHANNELS.outputs)
    assert torch.allclose(member.probabilities(image), wanted, atol=1e-4)
    whole = load_member(path, CPU)
    assert whole.config.data.patch_size == (128, 128, 128)
    assert (
        "inputs are T2, FLAIR, T1, T1ce and labels 0 background, 1 NCR, 2 ED, 3 ET"
        in (whole.notes[-1])
    )


@pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
def test_a_checkpoint_of_nnunet_says_itself_how_it_is_meant(tmp_path, name):
    path, model = nnunet_file(tmp_path, name)
    member = load_member(path, CPU)
    assert member.config.data.patch_size == member.config.model.planned_for == WINDOW
    image = torch.randn(4, *WINDOW, generator=torch.Generator().manual_seed(1))
    wanted = meant(model, image, ("FLAIR", "T1", "T1ce", "T2"), ("background", "ED", "NCR", "ET"))
    assert torch.allclose(member.probabilities(image), wanted, atol=1e-4)
    assert "inputs are FLAIR, T1, T1ce, T2 and labels 0 background, 1 ED" in member.notes[-1]


def test_a_case_is_predicted_by_released_weights(tmp_path, case):
    path, _ = xing_file(tmp_path)
    predictor = load_predictor(path, "cpu", changes={"data.patch_size": (32, 32, 32)})
    scan = read_scan(case)
    assert predictor.predict(scan).shape == (40, 44, 24)
    assert any("ge-xing/SegMamba" in note for note in predictor.notes)


def normalised_by_its_authors(image):
    """Cut to what is not 0 in any image, then z-scored with the background."""
    places = np.argwhere(image.any(0))
    box = tuple(slice(a, b + 1) for a, b in zip(places.min(0), places.max(0), strict=True))
    cut = image[(slice(None), *box)].astype(np.float64)
    mean, deviation = (f(cut, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return box, (cut - mean) / deviation


def test_released_segmamba_sees_images_that_are_normalised_as_by_its_authors(tmp_path):
    path, _ = xing_file(tmp_path)
    scan = read_scan(write_case_with_background(tmp_path / "data"))
    windows = {"data.patch_size": (32, 32, 32)}
    predictor = load_predictor(path, "cpu", changes=windows)
    box, image = normalised_by_its_authors(scan.image)
    wanted = predictor.members[0].probabilities(torch.from_numpy(image).float())
    got = predictor.probabilities(scan)[(slice(None), *box)]
    assert torch.allclose(got, wanted, atol=1e-3), "but for images in half precision"
    changes = windows | {"inference.normalise_over": "brain"}
    over_brain = load_predictor(path, "cpu", changes=changes).probabilities(scan)
    assert (over_brain[(slice(None), *box)] - wanted).abs().max() > 0.05
    assert "with the background" in predictor.notes[-1] and "brain's box" in predictor.summary


def test_a_missing_image_is_zero_over_the_box_too():
    image = torch.zeros(4, 6, 6, 6)
    image[1:, 1:4, 1:4, 1:4] = torch.randn(3, 3, 3, 3)
    out = normalised_over_box(image, np.array([0, -2, -2, -2], np.float32))
    assert not out[0].any()
    assert torch.allclose(out[1:].std((1, 2, 3), correction=0), torch.ones(3))
    assert (out[1:, 0] < out[1:, 1:4, 1:4, 1:4].mean((1, 2, 3))[:, None, None]).all()


@pytest.mark.parametrize(
    ("masked", "over"), [([True] * 4, "brain"), ([False] * 4, "box"), (None, "brain")]
)
def test_nnunets_plan_says_whether_the_background_counts(tmp_path, masked, over):
    changes = {} if masked is None else {"use_mask_for_norm": masked}
    path, _ = nnunet_file(tmp_path, **changes)
    assert load_member(path, CPU).inference.normalise_over == over


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": {"0": "CT"}}, "its inputs are CT; this program predicts from T1, T1ce"),
        ({"labels": LABELS | {"liver": 4}}, "its labels are background, ED, NCR, ET, liver"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "regions of nnU-Net"),
        ({"spacing": [3.0, 1.0, 1.0]}, "voxels of unequal sides"),
        ({"patch_size": [512, 512]}, "no patch_size of three numbers.*3d_fullres"),
        ({"pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2]]}, "other strides than nnU-Net plans"),
        ({"patch_size": [40, 16, 32]}, r"checkpoint_final.*data\.patch_size.*40"),
        ({"normalization_schemes": ["CTNormalization"] * 4}, "not z-scored"),
        ({"use_mask_for_norm": [True, False, True, True]}, "some with the background"),
    ],
)
def test_a_network_for_other_images_is_refused_with_the_reason(tmp_path, changes, message):
    path, _ = nnunet_file(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        load_member(path, CPU)


def test_weights_without_a_plan_or_a_layer_are_refused(tmp_path):
    path, model = nnunet_file(tmp_path, "umamba_bot")
    torch.save({"network_weights": model.state_dict()}, path)
    with pytest.raises(UserError, match=r'umamba|U-Mamba_Bot.*without nnU-Net.s plan.*"init_args"'):
        load_member(path, CPU)
    path, model = xing_file(tmp_path)
    state = model.state_dict()
    del state["vit.mlps.0.fc1.weight"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"do not fit .*segmamba_xing.*vit\.mlps\.0\.fc1\.weight"):
        load_member(path, CPU, changes={"data.patch_size": WINDOW})
    del state["out.conv.conv.weight"]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"lack out\.conv\.conv\.weight"):
        load_member(path, CPU)


def test_a_two_dimensional_network_is_refused(tmp_path):
    path, model = xing_file(tmp_path)
    state = model.state_dict()
    state["encoder1.layer.conv1.conv.weight"] = state["encoder1.layer.conv1.conv.weight"][..., 0]
    torch.save(state, path)
    with pytest.raises(UserError, match="a 2-D network"):
        load_member(path, CPU)


def test_a_config_beside_the_weights_says_how_they_are_meant(tmp_path):
    path, model = xing_file(tmp_path)
    changes = {"model.name": "segmamba_xing", "model.base_channels": 2, "model.d_state": 3}
    config = preset("demo").changed(changes | {"data.patch_size": WINDOW})
    (tmp_path / "config.json").write_text(config.to_json())
    image = torch.randn(4, *WINDOW, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(image[None])[0].softmax(0)
    assert torch.allclose(load_member(path, CPU).probabilities(image), wanted, atol=1e-4)


def test_a_run_starts_from_released_weights_channel_by_channel(tmp_path):
    path, model = xing_file(tmp_path)
    config = TINY.changed(
        {
            "learning.initial_weights": str(path),
            "model.name": "segmamba_xing",
            "model.d_state": 3,
            "model.scan_axes": "whd",
            "data.patch_size": (32, 32, 32),
        }
    )
    told, folder = Told(), RunFolder(tmp_path / "run")
    started = build_model(config.model)
    initial_weights(config, None, folder, CPU, told)(started)
    own, stem = started.state_dict(), "vit.downsample_layers.0.0.weight"
    order = [XING_CHANNELS.inputs.index(modality) for modality in MODALITIES]
    assert torch.equal(own[stem], model.state_dict()[stem][:, order])
    assert torch.equal(own["out.conv.conv.weight"], model.state_dict()["out.conv.conv.weight"])
    assert any("inputs are T2, FLAIR, T1, T1ce" in note for note in told.notes)
    assert any("model.scan_axes=whd" in note for note in told.notes)
    assert json.loads(folder.initial_weights.read_text())["taken"] > 280
