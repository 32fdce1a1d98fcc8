"""The network has the documented shape and takes every legal patch.

Each of its options does what it says.
"""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segmamba.config import Config
from segmamba.errors import UserError
from segmamba.models import build_model, decay_groups
from segmamba.models.compiling import constant_result
from segmamba.models.layers import InstanceNorm
from tests.tiny import TINY

SMALL = TINY.changed(
    {"model.base_channels": 4, "model.mamba_depths": (1, 1, 1), "model.d_state": 4}
).model


def seeded(**changes):
    torch.manual_seed(0)
    return build_model(dataclasses.replace(SMALL, **changes))


def volume(*sides, batch=1):
    return torch.randn(batch, 4, *sides, generator=torch.Generator().manual_seed(1))


def gradients(model, x):
    model.zero_grad()
    output = model(x)
    sum(y.square().mean() for y in (output if isinstance(output, list) else [output])).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_paper_network_has_the_designs_size_and_arithmetic():
    with torch.device("meta"):
        model = build_model(Config().model)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(2, 4, 128, 128, 64)).sum().backward()
    assert sum(p.numel() for p in model.parameters()) == 16_871_140
    # torch counts convolutions and matrix products
    assert counter.get_total_flops() == pytest.approx(5.0e12, rel=0.02)


def test_levels_have_the_documented_resolutions_channels_and_blocks():
    model, seen = seeded(conv_depths=(1, 2, 3), mamba_depths=(3, 2, 1)), []
    for stage in model.stages:
        stage.register_forward_hook(
            lambda module, inputs, output: seen.append(tuple(output.shape[1:]))
        )
    model(volume(32, 32, 48))
    assert seen == [(4, 32, 32, 48), (8, 16, 16, 24), (16, 8, 8, 12), (32, 4, 4, 6), (64, 2, 2, 3)]
    kinds = [[type(block).__name__ for block in stage] for stage in model.stages]
    assert [(k.count("ConvBlock"), k.count("MambaBlock")) for k in kinds] == [
        (1, 0),
        (2, 0),
        (3, 3),
        (0, 2),
        (0, 1),
    ]


@pytest.mark.parametrize("order", ["forward", "tri"])
@pytest.mark.parametrize("sides", [(16, 16, 16), (32, 48, 16), (16, 80, 32), (48, 16, 64)])
def test_every_patch_with_sides_of_16_works(sides, order):
    model = seeded(scan_order=order).eval()
    with torch.no_grad():
        assert model(volume(*sides)).shape == (1, 4, *sides)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((16, 24, 32), "axis y.*16, not 24; nearest: 16 or 32"),
        ((16, 16, 8), "axis z.*nearest: 16 "),
    ],
)
def test_a_wrong_side_names_the_axis_and_the_nearest_legal_sizes(sides, message):
    with pytest.raises(UserError, match=message):
        seeded()(volume(*sides))


def test_depth_zero_everywhere_is_a_network():
    model = seeded(mamba_depths=(0, 0, 0))
    assert model(volume(16, 16, 32)).shape == (1, 4, 16, 16, 32)
    assert not any("mamba" in name for name, _ in model.named_parameters())


def test_weights_go_from_one_scan_to_another():
    first, second = (
        seeded(scan="portable").eval(),
        build_model(dataclasses.replace(SMALL, scan="sequential")).eval(),
    )
    second.load_state_dict(first.state_dict(), strict=True)
    x = volume(16, 32, 16)
    assert torch.allclose(first(x), second(x), atol=1e-5)


def test_a_sample_alone_is_predicted_as_in_a_batch():
    model, x = seeded().eval(), volume(32, 16, 32, batch=2)
    with torch.no_grad():
        assert torch.allclose(model(x[:1]), model(x)[:1], atol=1e-5)
    assert torch.allclose(model(x[:1]), model(x)[:1], atol=1e-5)


def test_every_parameter_gets_a_gradient():
    for changes in (
        {},
        {
            "scan_order": "tri",
            "attention_gates": True,
            "deep_supervision": 3,
            "upsample": "interpolate",
            "norm": "instance",
        },
    ):
        assert all(
            g.abs().sum() > 0 for g in gradients(seeded(**changes), volume(32, 32, 32)).values()
        )


def test_norms_biases_a_log_and_d_are_not_decayed():
    model = seeded(scan_order="bidirectional", attention_gates=True)
    decayed, undecayed = decay_groups(model)
    free = {id(p) for p in undecayed}
    assert len(decayed) + len(undecayed) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        expected = name.endswith(("A_log", ".D", "bias")) or ".norm" in name or parameter.dim() == 1
        assert (id(parameter) in free) == expected, name


OPTIONS = {
    "base_channels": 6,
    "conv_depths": (1, 1, 2),
    "mamba_depths": (1, 2, 1),
    "d_state": 5,
    "d_conv": 3,
    "expand": 1,
    "scan_order": "bidirectional",
    "scan_axes": "whd",
    "norm": "instance",
    "upsample": "interpolate",
    "attention_gates": True,
    "name": "unet",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_prediction(option):
    x = volume(32, 16, 32, batch=2)
    with torch.no_grad():
        assert not torch.allclose(seeded()(x), seeded(**{option: OPTIONS[option]})(x), atol=1e-4)


def test_deep_supervision_adds_coarser_logits_in_training_only():
    model, x = seeded(deep_supervision=2), volume(32, 32, 16)
    assert [tuple(y.shape) for y in model(x)] == [
        (1, 4, 32, 32, 16),
        (1, 4, 16, 16, 8),
        (1, 4, 8, 8, 4),
    ]
    assert model.eval()(x).shape == (1, 4, 32, 32, 16)
    assert len(seeded(deep_supervision=3)(x)) == 4
    assert isinstance(seeded()(x), torch.Tensor)


def test_checkpointing_changes_memory_and_nothing_else():
    x, plain, frugal = (
        volume(32, 32, 16, batch=2),
        seeded(),
        seeded(checkpoint_stages=(1, 2, 3, 4, 5)),
    )
    want, got = gradients(plain, x), gradients(frugal, x)
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert all(
        torch.equal(got, want)
        for got, want in zip(frugal.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    kept = {}
    for levels in ((), (1,), (1, 2, 3, 4, 5)):
        storages = {}
        keep = lambda tensor, storages=storages: storages.setdefault(tensor.data_ptr(), tensor)  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            alive = seeded(checkpoint_stages=levels)(x)
        kept[levels] = sum(t.numel() for t in storages.values())
        del alive
    # A block of the kernels for a CPU stores little that could be saved.
    assert kept[()] > 1.3 * kept[(1,)] > 1.3 * 1.3 * kept[(1, 2, 3, 4, 5)]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_compiled_network_computes_activations_again_as_well(torchs_convolutions, norm):
    x, plain, frugal = (
        volume(32, 16, 16, batch=2),
        seeded(norm=norm),
        seeded(norm=norm, checkpoint_stages=(1, 3)),
    )
    compiled = torch.compile(frugal, backend="aot_eager", fullgraph=True)
    for _ in range(2):  # statistics that are counted twice would run ahead
        want = torch.autograd.grad(plain(x).square().mean(), plain.parameters())
        got = torch.autograd.grad(compiled(x).square().mean(), frugal.parameters())
    assert all(
        torch.allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-4 * float(b.abs().max()))
        for a, b in zip(got, want, strict=True)
    )
    assert all(
        torch.allclose(a, b, rtol=1e-5)
        for a, b in zip(frugal.buffers(), plain.buffers(), strict=True)
    )


def test_instance_norm_equals_torchs():
    ours, theirs = InstanceNorm(3), nn.InstanceNorm3d(3, affine=True)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_volumes_stay_channels_last(torchs_convolutions):
    layouts = {}
    model = seeded(norm="instance", scan_order="tri", attention_gates=True, upsample="interpolate")
    for name, module in model.named_modules():
        if type(module).__name__ in ("ConvBlock", "MambaBlock", "Downsample"):
            keep = lambda module, inputs, output, name=name: layouts.update(  # noqa: E731
                {name: output.is_contiguous(memory_format=torch.channels_last_3d)}
            )
            module.register_forward_hook(keep)
    model(volume(32, 32, 32, batch=2))
    assert layouts and not [name for name, kept in layouts.items() if not kept]


@pytest.mark.parametrize(
    "changes",
    [{}, {"scan_order": "tri", "attention_gates": True, "deep_supervision": 1, "norm": "instance"}],
)
def test_network_compiles_as_one_graph(changes):
    model, x = seeded(**changes), volume(32, 16, 16, batch=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for got, want in zip(compiled(x), model(x), strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-4)


BUILT = """
import sys
from segmamba.config import preset
from segmamba.models import build_model
build_model(preset("demo").model)
print("torch._dynamo" in sys.modules)
"""


def test_building_a_network_does_not_import_the_compiler():
    process = subprocess.run([sys.executable, "-c", BUILT], capture_output=True, text=True)
    assert process.stdout == "False\n"


def test_a_constant_result_is_marked_as_torch_marks_it():
    def ours(): ...
    def torchs(): ...

    assert vars(constant_result(ours)) == vars(torch.compiler.assume_constant_result(torchs)) != {}
