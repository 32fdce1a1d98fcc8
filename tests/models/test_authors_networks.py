"""The field's Mamba networks are those of their authors, at every size and in every precision.

`authors_parameters.json` is written by benchmarks/authors_networks.py from the authors' own code,
with which that script compares outputs and gradients.
"""

import importlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segmamba.config import Config, ModelConfig, preset
from segmamba.errors import UserError
from segmamba.inference.fold import folded, in_half
from segmamba.models import build_model, decay_groups, side_multiples
from segmamba.models.authors_mamba import AuthorsMamba
from segmamba.models.describe import describe_network
from segmamba.models.mamba import ScanDirection, scan_directions
from segmamba.models.nnunet_plan import planned_strides
from segmamba.models.xing import SUFFIXES, V2_AXES

NAMES = json.loads(Path(__file__).with_name("authors_parameters.json").read_text())
PATCH = (32, 32, 48)
UMAMBAS = [name for name in NAMES if name.startswith("umamba")]
XINGS = [name for name in NAMES if name.startswith("segmamba")]
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def config_of(name, patch=PATCH, **changes):
    planned = {"planned_for": patch} if name in UMAMBAS else {}
    return ModelConfig(name=name, **{"base_channels": 2, "d_state": 3} | planned | changes)


def seeded(name, **changes):
    torch.manual_seed(0)
    return build_model(config_of(name, **changes))


def volume(*sides, batch=1):
    return torch.randn(batch, 4, *sides, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_names_and_shapes_of_the_authors_own(name):
    with torch.device("meta"):
        state = build_model(ModelConfig(name=name)).state_dict()
    assert {key: "x".join(map(str, value.shape)) for key, value in state.items()} == NAMES[name]


# --- the layer, against the recurrence written down token by token ----------------------------


def oracle_scan(layer, suffix, x):
    """One scan of (B, L, E) by the parameters with a suffix, a token and a channel at a time."""
    part = {
        name: getattr(layer, f"{name}{suffix}") for name in ("conv1d", "x_proj", "dt_proj", "D")
    }
    A = -getattr(layer, f"A{suffix}_log").exp()
    taps, width = part["conv1d"].weight[:, 0], part["conv1d"].weight.shape[-1]
    state, outputs = torch.zeros(len(x), *A.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        seen = sum(taps[:, width - 1 - k] * x[:, t - k] for k in range(width) if t - k >= 0)
        token = F.silu(seen + part["conv1d"].bias)
        projected = token @ part["x_proj"].weight.T
        raw, drive, read = projected.split(
            [part["dt_proj"].in_features, A.shape[1], A.shape[1]], dim=1
        )
        step = F.softplus(raw @ part["dt_proj"].weight.T + part["dt_proj"].bias)
        state = torch.exp(step[..., None] * A) * state
        state = state + (step * token)[..., None] * drive[:, None]
        outputs.append((state * read[:, None]).sum(-1) + part["D"] * token)
    return torch.stack(outputs, dim=1)


def oracle_layer(layer, tokens, orders):
    """The layer by explicit orders: for each suffix, lists of token numbers."""
    x, gate = (tokens @ layer.in_proj.weight.T).chunk(2, dim=-1)
    total = torch.zeros_like(x)
    for suffix, order in orders:
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        total = total + oracle_scan(layer, suffix, x[:, order])[:, back]
    return (total * F.silu(gate)) @ layer.out_proj.weight.T


def authors_slices(length, count):
    """The order of SegMamba's third scan: `count` pieces side by side, read across."""
    piece = length // count
    return [start + place for place in range(piece) for start in range(0, length, piece)]


def raster(sides, axes):
    """The numbers of the voxels in an order of the axes, slowest first."""
    numbers = torch.arange(sides[0] * sides[1] * sides[2]).reshape(sides)
    return numbers.permute(axes).flatten().tolist()


def errors_of(layer, sides, orders, channels):
    """The largest relative errors of output, input's and parameters' gradients."""
    tokens = torch.randn(2, sides[0] * sides[1] * sides[2], channels, dtype=torch.float64)
    found = []
    for run in (lambda x: layer(x, sides), lambda x: oracle_layer(layer, x, orders)):
        x = tokens.clone().requires_grad_()
        y = run(x)
        gradients = torch.autograd.grad(y.square().sum() + y.sum(), [x, *layer.parameters()])
        found.append([y.detach(), *gradients])
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*found, strict=True))


def layer_of(scans, channels):
    torch.manual_seed(0)
    layer = AuthorsMamba(channels, scans, ModelConfig(d_state=3, scan="portable")).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return layer


@pytest.mark.parametrize("sides", [(8, 2, 3), (7, 3, 2), (1, 4, 2)])
def test_segmambas_layer_reads_forwards_backwards_and_across_the_slices(sides):
    directions = scan_directions("tri", "dhw")
    scans = {suffix: [one] for suffix, one in zip(SUFFIXES, directions, strict=True)}
    length = sides[0] * sides[1] * sides[2]
    orders = [
        ("", list(range(length))),
        ("_b", list(range(length))[::-1]),
        ("_s", authors_slices(length, sides[0])),
    ]
    assert errors_of(layer_of(scans, 5), sides, orders, 5) < 1e-6


def test_segmamba_v2s_layer_reads_along_three_axes_with_the_same_weights():
    scans, sides = {"": [ScanDirection(axes) for axes in V2_AXES]}, (2, 4, 3)
    orders = [("", raster(sides, axes)) for axes in ((0, 1, 2), (1, 0, 2), (2, 1, 0))]
    assert errors_of(layer_of(scans, 5), sides, orders, 5) < 1e-6


def test_umambas_layer_reads_once():
    layer = layer_of({"": [ScanDirection((0, 1, 2))]}, 5)
    assert errors_of(layer, (3, 2, 4), [("", list(range(24)))], 5) < 1e-6


def test_slices_of_128_voxels_are_the_authors_64_32_16_and_8(monkeypatch):
    seen = []
    monkeypatch.setattr(
        AuthorsMamba, "forward", lambda self, tokens, sides: seen.append(sides[0]) or tokens
    )
    with torch.no_grad():
        seeded("segmamba_xing")(volume(128, 16, 16))
    assert seen == [64, 64, 32, 32, 16, 16, 8, 8]


# --- the networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_portable_scan_equals_that_of_the_oracle_with_its_gradients(name):
    found = []
    for scan in ("portable", "sequential"):
        model = seeded(name, patch=(16, 16, 32), scan=scan).double()
        y = model(volume(16, 16, 32).double())
        found.append([y.detach(), *torch.autograd.grad(y.square().mean(), _used(model))])
    # a bias before a norm has the gradient 0, up to rounding
    assert all(
        float((a - b).norm()) <= 1e-6 * float(b.norm()) + 1e-12 for a, b in zip(*found, strict=True)
    )


def _used(model):
    """The parameters without those of outputs that are not asked for."""
    last = len(getattr(model.decoder, "seg_layers", ())) - 1 if hasattr(model, "decoder") else 0
    return [
        parameter
        for name, parameter in model.named_parameters()
        if "seg_layers" not in name or f"seg_layers.{last}." in name
    ]


@pytest.mark.parametrize("sides", [(96, 16, 16), (112, 16, 32), (16, 48, 32), (16, 32, 80)])
@pytest.mark.parametrize("name", ["segmamba_xing", "segmamba_v2", "umamba_bot"])
def test_every_patch_size_works(name, sides):
    model = seeded(name, patch=(32, 32, 32)).eval()
    with torch.no_grad():
        assert model(volume(*sides)).shape == (1, 4, *sides)


@pytest.mark.parametrize("patch", [(16, 16, 8), (32, 48, 16), (24, 40, 56)])
@pytest.mark.parametrize("name", UMAMBAS)
def test_umamba_is_planned_for_every_patch(name, patch):
    multiples = side_multiples(config_of(name, patch))
    assert all(side % multiple == 0 for side, multiple in zip(patch, multiples, strict=True))
    with torch.no_grad():
        assert seeded(name, patch=patch)(volume(*patch)).shape == (1, 4, *patch)


def test_strides_are_those_that_nnunet_plans():
    two = (2, 2, 2)
    assert planned_strides((128, 128, 64)) == [(1, 1, 1), two, two, two, two, (2, 2, 1)]
    assert planned_strides((128, 128, 128)) == [(1, 1, 1), two, two, two, two, two]
    assert planned_strides((48, 48, 32)) == [(1, 1, 1), two, two, two]
    # a single axis of 8 voxels is left alone, one of 12 is not
    assert planned_strides((32, 16, 16)) == [(1, 1, 1), two, two]
    assert planned_strides((48, 16, 16)) == [(1, 1, 1), two, two, (2, 1, 1)]


def test_a_patch_without_a_second_stage_is_refused():
    with pytest.raises(UserError, match=r"model.planned_for.*no stage below"):
        seeded("umamba_bot", patch=(4, 4, 8))


@pytest.mark.parametrize("name", XINGS)
def test_an_input_that_leaves_one_voxel_is_refused_with_a_reason(name):
    with pytest.raises(UserError, match=r"one voxel is left.*larger data.patch_size"):
        seeded(name)(volume(16, 16, 16))
    with pytest.raises(UserError, match="axis y must be a multiple of 16, not 24"):
        seeded(name)(volume(16, 24, 16))


@pytest.mark.parametrize("name", ["segmamba_xing", "umamba_enc"])
def test_weights_of_arrays_z_y_x_mean_the_same_with_the_axes_turned(name):
    plain = seeded(name, patch=(32, 16, 48)).eval()
    turned = seeded(name, patch=(48, 16, 32), scan_axes="whd").eval()
    turned.load_state_dict(plain.state_dict())
    x = volume(32, 16, 48)
    with torch.no_grad():
        want, got = plain(x), turned(x.permute(0, 1, 4, 3, 2))
    assert torch.allclose(got.permute(0, 1, 4, 3, 2), want, atol=1e-5)
    assert not torch.allclose(turned(volume(48, 16, 32)), want.permute(0, 1, 4, 3, 2), atol=1e-3)


def test_umamba_enc_fits_the_patch_that_it_is_planned_for_alone():
    model = seeded("umamba_enc", patch=(16, 16, 16), base_channels=16)
    with pytest.raises(UserError, match=r"planned for 64; .*model.planned_for"):
        model(volume(32, 16, 16))
    base = preset("demo").changed({"model.name": "umamba_enc"})
    assert base.model.planned_for == base.data.patch_size
    with pytest.raises(UserError, match=r"model.planned_for.*set both alike"):
        base.changed({"data.patch_size": (32, 32, 32)})
    both = {"data.patch_size": (32, 32, 32), "model.planned_for": (32, 32, 32)}
    assert base.changed(both).model.planned_for == (32, 32, 32)


def test_the_patch_that_umamba_bot_was_planned_for_stays_when_the_window_changes():
    base = Config().changed({"model.name": "umamba_bot", "data.patch_size": (32, 32, 32)})
    assert base.changed({"data.patch_size": (64, 64, 64)}).model.planned_for == (32, 32, 32)
    assert Config().changed({"data.patch_size": (32, 32, 32)}).model.planned_for == ()
    with pytest.raises(UserError, match=r"model.planned_for.*three numbers"):
        ModelConfig(name="umamba_bot", planned_for=(1, 2))


@pytest.mark.parametrize("name", UMAMBAS)
def test_umamba_supervises_coarser_outputs_in_training_alone(name):
    model, x = seeded(name, patch=(32, 32, 32), deep_supervision=3), volume(32, 32, 32)
    assert [tuple(y.shape[2:]) for y in model(x)] == [(32,) * 3, (16,) * 3, (8,) * 3]
    assert model.eval()(x).shape == (1, 4, 32, 32, 32)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("segmamba_xing", {"deep_supervision": 1}),
        ("segmamba_v2", {"scan_order": "tri"}),
        ("umamba_bot", {"checkpoint_stages": (1,)}),
        ("umamba_enc", {"norm": "instance"}),
    ],
)
def test_an_option_that_an_authors_network_would_ignore_is_refused(name, option):
    with pytest.raises(UserError, match=f"model.{next(iter(option))}.*no effect on {name}"):
        ModelConfig(name=name, **option)


@pytest.mark.parametrize("name", XINGS)
def test_without_monai_the_message_says_what_to_install(name, monkeypatch):
    real = importlib.import_module

    def without_monai(module, *args):
        if module.partition(".")[0] == "monai":
            raise ImportError("No module named 'monai'")
        return real(module, *args)

    monkeypatch.setattr(importlib, "import_module", without_monai)
    with pytest.raises(UserError, match="pip install monai"):
        seeded(name)


@pytest.mark.parametrize("name", NAMES)
def test_network_compiles_as_one_graph(name):
    model, x = seeded(name, patch=(32, 16, 32)), volume(32, 16, 32)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_norms_biases_decays_and_skips_are_not_decayed(name):
    model = seeded(name)
    free = {id(parameter) for parameter in decay_groups(model)[1]}
    for key, parameter in model.named_parameters():
        leaf = key.rpartition(".")[2]
        expected = "log" in leaf or leaf[0] == "D" or "bias" in leaf or ".norm" in key
        assert (id(parameter) in free) == expected, key


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_described_at_its_full_size_without_memory(name):
    config = ModelConfig(name=name)
    parts = describe_network(config, patch_size=(128, 128, 64), batch_size=2)
    wanted = sum(
        torch.Size(map(int, shape.split("x"))).numel()
        for key, shape in NAMES[name].items()
        if not key.startswith("decoder.encoder.") and "all_modules" not in key
    )
    assert sum(part.parameters for part in parts) == wanted
    assert sum(part.forward_flops for part in parts) > 5e11


# --- precision ---------------------------------------------------------------------------------


def losses_of(name, dtype, steps, device="cpu", **changes):
    """The losses of training steps under autocast, as the training takes them."""
    torch.manual_seed(0)
    model = build_model(config_of(name, (16, 16, 32), **changes)).to(device).train()
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in decay_groups(model)], lr=3e-3, weight_decay=1e-2
    )
    scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16, init_scale=2**10)
    x = volume(16, 16, 32, batch=2).to(device)
    label = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    losses = []
    for _ in range(steps):
        with torch.autocast(device, dtype=dtype, enabled=dtype is not torch.float32):
            logits = model(3 * x)
        loss = F.cross_entropy(logits.float(), label)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return torch.tensor(losses)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_network_learns_in_every_precision(name, dtype):
    losses = losses_of(name, dtype, steps=3)
    assert losses.isfinite().all() and losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_500_steps_stay_finite_in_every_precision(name, dtype):
    losses = losses_of(name, dtype, steps=500)
    assert losses.isfinite().all() and losses[-50:].mean() < 0.5 * losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_500_steps_stay_finite_in_every_precision_on_a_gpu(name, dtype):
    losses = losses_of(name, dtype, steps=500, device="cuda", base_channels=8, d_state=16)
    assert losses.isfinite().all() and losses[-50:].mean() < 0.5 * losses[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_what_the_cpu_gives(name):
    model, x = seeded(name, base_channels=8).eval(), volume(*PATCH)
    # Convolutions in TF32 differ by more in a network of random weights.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        want, got = model(x), model.cuda()(x.cuda()).cpu()
    assert torch.allclose(got, want, atol=1e-2 * float(want.abs().max()))


@pytest.mark.parametrize("name", UMAMBAS)
def test_umambas_layers_are_in_fp32_under_autocast_also_in_a_network_for_inference(name):
    model = seeded(name, base_channels=4).eval()
    half = in_half(folded(model, "cpu"), torch.bfloat16)
    for network in (model, half):
        seen = []
        layers = [module for module in network.modules() if isinstance(module, AuthorsMamba)]
        for layer in layers:
            layer.register_forward_hook(lambda m, inputs, y, seen=seen: seen.append(y.dtype))
        # The values are not compared: a processor without bfloat16 sums in it, and is far off.
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert network(volume(*PATCH)).isfinite().all()
        assert seen == [torch.float32] * len(layers) and layers
