"""What a study compares with: controls of the same size, the U-Net, and the field's networks."""

import importlib.util

import pytest
import torch

from segmamba.config import Config, ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.baselines import control_plan, unet_plan
from segmamba.models.segmamba import segmamba_plan


def parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in build_model(config).parameters())


@pytest.mark.parametrize("base_channels", [8, 32])
@pytest.mark.parametrize("depths", [(1, 1, 1), (2, 2, 2), (0, 2, 2), (0, 0, 1), (8, 8, 8)])
def test_control_has_the_parameters_of_its_mamba_network_within_2_percent_and_no_mamba(
    depths, base_channels
):
    config = ModelConfig(base_channels=base_channels, mamba_depths=depths)
    control = ModelConfig(base_channels=base_channels, mamba_depths=depths, name="control")
    assert parameters(control) == pytest.approx(parameters(config), rel=0.02)
    assert not any(control_plan(control).mambas)


def test_paper_sized_controls_convolve_multiples_of_8_channels():
    assert all(
        width % 8 == 0
        for depth in (1, 2, 4)
        for width in control_plan(ModelConfig(mamba_depths=(depth,) * 3)).widths
    )


def test_control_of_depth_zero_is_depth_zero():
    config = ModelConfig(mamba_depths=(0, 0, 0))
    assert control_plan(config) == segmamba_plan(config)


def test_unet_has_conv_blocks_at_every_level():
    plan = unet_plan(Config().model)
    assert min(plan.convs) >= 1 and not any(plan.mambas)


@pytest.mark.parametrize(
    "option", [{"norm": "instance"}, {"deep_supervision": 1}, {"attention_gates": True}]
)
def test_an_option_that_a_peer_would_ignore_is_refused(option):
    with pytest.raises(UserError, match=f"model.{next(iter(option))}.*no effect on dynunet"):
        ModelConfig(name="dynunet", **option)


@pytest.mark.parametrize("base_channels", [4, 12])
def test_channels_that_segresnet_cannot_group_are_refused(base_channels):
    with pytest.raises(
        UserError, match=rf"model.base_channels = {base_channels}.*segresnet.*multiple of 8"
    ):
        ModelConfig(name="segresnet", base_channels=base_channels)


@pytest.mark.parametrize("name", ["dynunet", "swinunetr", "nnunet_plain", "nnunet_resenc"])
@pytest.mark.parametrize("base_channels", [1, 5])
def test_the_other_peers_are_built_with_any_channels(name, base_channels):
    if not importlib.util.find_spec(PACKAGES[name]):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    assert build_model(ModelConfig(name=name, base_channels=base_channels)).training


PACKAGES = {
    "dynunet": "monai",
    "segresnet": "monai",
    "swinunetr": "einops",
    "nnunet_plain": "dynamic_network_architectures",
    "nnunet_resenc": "dynamic_network_architectures",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_peer_whose_package_is_missing_says_what_to_install(name, monkeypatch):
    package, real = PACKAGES[name], importlib.import_module

    def without_package(module, *args):
        if module.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(module, *args)

    monkeypatch.setattr(importlib, "import_module", without_package)
    with pytest.raises(UserError, match=f"pip install {package.replace('_', '-')}"):
        build_model(ModelConfig(name=name))


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_peer_answers_under_our_interface(name):
    if not all(map(importlib.util.find_spec, ("monai", PACKAGES[name]))):
        pytest.skip(f"{PACKAGES[name]} is not installed")
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name, base_channels=8)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 4, 64, 64, 32)).shape == (1, 4, 64, 64, 32)
        with pytest.raises(UserError, match="axis x must be a multiple"):
            model(torch.randn(1, 4, 68, 64, 32))
