"""What may stand in place of the scan: a convolution or nothing, of the same size and cost."""

import dataclasses
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from segmamba.config import Config, ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.describe import describe_arms
from segmamba.models.mixers import KERNELS, GatedBlock, kernel_voxels, mixer_block
from tests.tiny import TINY

MIXERS = get_args(get_type_hints(ModelConfig)["mixer"])
SMALL = TINY.changed(
    {"model.base_channels": 4, "model.mamba_depths": (1, 1, 1), "model.d_state": 4}
).model
SCANLESS = ("conv", "none")


def seeded(**changes):
    torch.manual_seed(0)
    return build_model(dataclasses.replace(SMALL, **changes))


def volume(*sides, batch=1):
    return torch.randn(batch, 4, *sides, generator=torch.Generator().manual_seed(1))


def size(block):
    return sum(p.numel() for p in block.parameters())


@pytest.mark.parametrize("mixer", SCANLESS)
@pytest.mark.parametrize("order", ["forward", "bidirectional", "tri"])
@pytest.mark.parametrize("channels", [16, 48, 128, 512])
def test_a_block_without_a_scan_has_the_parameters_of_a_mamba_block(channels, order, mixer):
    mamba = ModelConfig(scan_order=order)
    with torch.device("meta"):
        wanted, got = (
            size(mixer_block(channels, config))
            for config in (mamba, dataclasses.replace(mamba, mixer=mixer))
        )
    assert got == pytest.approx(wanted, rel=0.02)


def test_the_paper_networks_of_all_mixers_have_one_size_and_convolution_nearly_the_scans_cost():
    model = Config().model
    arms = {m: dataclasses.replace(model, mixer=m) for m in ("mamba", *SCANLESS)}
    mamba, conv, none = describe_arms(arms, patch_size=(64, 64, 32))
    for row in (conv, none):
        assert row["parameters"] == pytest.approx(mamba["parameters"], rel=0.005)
        assert row["forward_flops"] == pytest.approx(mamba["forward_flops"], rel=0.02)
    assert mamba["forward_flops"] > conv["forward_flops"] > none["forward_flops"]


def test_the_convolution_is_the_one_that_costs_most_nearly_what_the_scan_does():
    assert [kernel_voxels(c, ModelConfig()) for c in (128, 256, 512)] == [5, 5, 5]
    assert kernel_voxels(32, ModelConfig(d_state=1)) == KERNELS[0]
    assert kernel_voxels(128, ModelConfig(scan_order="tri")) == KERNELS[-1]


@pytest.mark.parametrize("mixer", SCANLESS)
def test_a_block_without_a_scan_computes_what_its_docstring_says(mixer):
    torch.manual_seed(0)
    block = GatedBlock(8, ModelConfig(mixer=mixer, d_state=4)).double()
    x = torch.randn(2, 8, 4, 3, 5, dtype=torch.float64)
    tokens = F.layer_norm(x.permute(0, 2, 3, 4, 1), (8,), block.norm.weight, block.norm.bias)
    u, gate = torch.tensor_split(tokens @ block.in_proj.weight.t(), 2, dim=-1)
    u = u.permute(0, 4, 1, 2, 3)
    if mixer == "conv":
        width, inner = block.mix.kernel_size[0], len(block.mix.weight)
        u = F.conv3d(u, block.mix.weight, block.mix.bias, padding=width // 2, groups=inner)
    mixed = u.permute(0, 2, 3, 4, 1).sigmoid() * u.permute(0, 2, 3, 4, 1)
    wanted = (mixed * gate * gate.sigmoid()) @ block.out_proj.weight.t()
    assert torch.allclose(block(x), x + wanted.permute(0, 4, 1, 2, 3), atol=1e-12)


def test_no_voxel_sees_another_without_a_mixer_and_a_convolution_sees_a_cube():
    seen = {}
    for mixer in SCANLESS:
        torch.manual_seed(0)
        block = GatedBlock(8, ModelConfig(mixer=mixer, d_state=1)).double()
        x = torch.randn(1, 8, 5, 5, 5, dtype=torch.float64, requires_grad=True)
        block(x)[..., 2, 2, 2].sum().backward()
        seen[mixer] = int((x.grad.abs().sum(1) > 0).sum())
    assert seen == {"conv": 27, "none": 1}


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_compiles_as_one_graph_with_the_gradients_of_all_its_parameters(mixer):
    torch.manual_seed(0)
    config = ModelConfig(mixer=mixer, d_state=4, scan_order="bidirectional", scan="portable")
    block = mixer_block(16, config).double()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 16, 3, 5, 4, dtype=torch.float64)
    want = torch.autograd.grad(block(x).square().mean(), block.parameters())
    got = torch.autograd.grad(compiled(x).square().mean(), block.parameters())
    for name, a, b in zip(dict(block.named_parameters()), got, want, strict=True):
        assert b.abs().sum() > 0, name
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("sides", [(16, 16, 16), (48, 16, 32)])
def test_a_network_of_every_mixer_takes_every_patch_and_learns(mixer, sides):
    model = seeded(mixer=mixer)
    model(volume(*sides, batch=2)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_mixer_is_near_itself_in_half_precision(mixer, dtype):
    model, x = seeded(mixer=mixer).eval(), volume(16, 32, 16)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", dtype=dtype):
            got = model(x)
    assert got.isfinite().all()
    assert (got - want).norm() < 0.05 * want.norm()


@pytest.mark.parametrize("mixer", SCANLESS)
def test_a_path_that_nothing_reads_is_refused(mixer):
    with pytest.raises(UserError, match=r"model\.scan_path = 'hilbert': has no effect on .*raster"):
        ModelConfig(mixer=mixer, scan_path="hilbert")


@pytest.mark.parametrize("option", [{"mixer": "conv"}, {"scan_path": "snake"}])
@pytest.mark.parametrize("name", ["segmamba_xing", "umamba_bot", "dynunet"])
def test_another_authors_network_refuses_another_mixer_or_path(name, option):
    with pytest.raises(UserError, match=f"model.{next(iter(option))} = .*no effect on {name}"):
        ModelConfig(name=name, **option)
