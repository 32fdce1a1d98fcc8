"""On a CUDA device: kernels against the oracle, compilation, and checkpoints that change device.

Run by `make test-gpu`.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segmamba.config import ModelConfig, preset
from segmamba.data.phantom import make_case
from segmamba.errors import UserError
from segmamba.models import blocks, build_model, layers, narrow_conv
from segmamba.models.scan import causal_conv_silu, choose_scan, selective_scan
from tests.models.test_scan import NAMES, random_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SMALL = ModelConfig(base_channels=8, conv_depths=(1, 1, 1), mamba_depths=(1, 1, 1))
# of inputs and output rounded to the dtype
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
KERNELS = ["triton", "mamba_ssm"]


@pytest.fixture(params=KERNELS)
def kernel(request):
    try:
        choose_scan(request.param, "cuda")
    except UserError as error:
        pytest.skip(str(error))
    return request.param


def errors_against_oracle(kernel, inputs, dtype):
    """The relative errors of a kernel whose x, delta, B and C have `dtype`, in float64.

    They are by name, of the output and of the gradients.
    """
    low = [
        t.detach().to("cuda", dtype if name in ("x", "delta", "B", "C") else t.dtype)
        for name, t in zip(NAMES, inputs, strict=True)
    ]
    dy = torch.randn(low[0].shape, generator=torch.Generator().manual_seed(2)).to("cuda", dtype)
    results = []
    for implementation in ("sequential", kernel):
        own = [
            (t.double() if implementation == "sequential" else t.clone()).requires_grad_()
            for t in low
        ]
        y = selective_scan(*own, implementation=implementation)
        results.append([y.detach(), *torch.autograd.grad(y, own, dy.to(y))])
    return {
        n: float((got.double() - want).norm() / want.norm())
        for n, want, got in zip(("y", *NAMES), *results, strict=True)
    }


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 18, 64, 16), (1, 1000, 48, 16), (2, 333, 96, 8)])
def test_kernel_equals_the_oracle_with_its_gradients(kernel, shape, dtype):
    errors = errors_against_oracle(kernel, random_inputs(*shape, dtype=torch.float32), dtype)
    assert max(errors.values()) < TOLERANCE[dtype], errors


def test_large_steps_forget_without_nan_on_the_gpu(kernel):
    errors = errors_against_oracle(
        kernel, random_inputs(2, 500, 32, 16, dtype=torch.float32, delta_scale=100.0), torch.float32
    )
    assert max(errors.values()) < 1e-4, errors


def test_triton_scan_is_deterministic():
    inputs = [
        t.detach().cuda().requires_grad_()
        for t in random_inputs(2, 2001, 64, 16, dtype=torch.float32)
    ]
    runs = []
    for _ in range(2):
        y = selective_scan(*inputs, implementation="triton")
        runs.append([y.detach(), *torch.autograd.grad(y, inputs, torch.ones_like(y))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_causal_convolution_kernel_equals_the_plain_one(dtype):
    try:
        choose_scan("mamba_ssm", "cuda")
    except UserError as error:
        pytest.skip(str(error))
    inputs = [torch.randn(2, 100, 128).to(dtype), torch.randn(64, 1, 4), torch.randn(64)]
    results = []
    for implementation, device, kind in (
        ("portable", "cpu", torch.float64),
        ("mamba_ssm", "cuda", dtype),
    ):
        xz, weight, bias = own = [
            t.to(device, kind if i == 0 or device == "cpu" else t.dtype).requires_grad_()
            for i, t in enumerate(inputs)
        ]
        y = causal_conv_silu(xz[..., :64], weight, bias, implementation=implementation)
        results.append([y.detach(), *torch.autograd.grad(y, own, torch.ones_like(y))])
    for want, got in zip(*results, strict=True):
        assert (got.cpu().double() - want).norm() / want.norm() < TOLERANCE[dtype]


@pytest.mark.parametrize("scan_order", ["forward", "tri"])
def test_network_compiles_as_one_graph_on_the_gpu(kernel, scan_order):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, scan=kernel, scan_order=scan_order)).cuda()
    x = torch.randn(2, 4, 48, 32, 32, device="cuda")
    compiled = torch.compile(model, fullgraph=True)
    with torch.autocast("cuda", torch.bfloat16):
        got, want = compiled(x), model(x)
        compiled(x).float().square().mean().backward()
    assert (got - want).norm() / want.norm() < 3e-2
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"mixer": "mamba2", "scan_order": "bidirectional"},
        {"mixer": "conv"},
        {"mixer": "none"},
        {"scan_path": "snake"},
        {"scan_path": "hilbert", "scan_order": "tri"},
    ],
    ids=str,
)
def test_every_mixer_and_path_is_on_the_gpu_what_it_is_on_a_cpu_and_compiles(changes):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, **changes)).eval()
    x = torch.randn(1, 4, 48, 32, 32)
    with torch.no_grad():
        want = model(x)
        got = model.cuda()(x.cuda()).cpu()
    assert (got - want).norm() / want.norm() < 5e-3  # cuDNN convolves fp32 in TF32
    model.train()
    pair = torch.cat([x, x.flip(2)]).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        output = torch.compile(model, fullgraph=True)(pair)
    output.float().square().mean().backward()
    assert output.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("length", [1000, 3000, 70_000])
def test_states_are_carried_over_segments_of_chunks_and_over_segments_of_segments(length):
    inputs = [t.cuda() for t in random_inputs(1, length, 40, 3, dtype=torch.float32)]
    results = []
    for implementation in ("portable", "triton"):
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        y = selective_scan(*leaves, implementation=implementation)
        results.append([y.detach(), *torch.autograd.grad(y.square().mean(), leaves)])
    for want, got in zip(*results, strict=True):
        assert (got - want).norm() < 1e-4 * want.norm()


def test_checkpoints_go_between_cpu_and_gpu_and_from_kernel_to_kernel(kernel, tmp_path):
    torch.manual_seed(0)
    on_cpu = build_model(dataclasses.replace(SMALL, scan="portable")).eval()
    torch.save(on_cpu.state_dict(), tmp_path / "weights.pth")
    on_gpu = build_model(dataclasses.replace(SMALL, scan=kernel)).cuda().eval()
    on_gpu.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True), strict=True)
    x = torch.randn(1, 4, 48, 32, 32)
    with torch.no_grad():
        want, got = on_cpu(x), on_gpu(x.cuda()).cpu()
    assert (got - want).norm() / want.norm() < 5e-3  # cuDNN convolves fp32 in TF32
    torch.save(on_gpu.state_dict(), tmp_path / "weights.pth")
    on_cpu.load_state_dict(
        torch.load(tmp_path / "weights.pth", weights_only=True, map_location="cpu"), strict=True
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_training_in_half_precision_stays_finite(kernel, dtype):
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, scan=kernel)).cuda()
    optimizer, scaler = (
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        torch.amp.GradScaler(enabled=dtype == torch.float16),
    )
    x, label = (
        torch.randn(2, 4, 48, 48, 32, device="cuda"),
        torch.randint(4, (2, 48, 48, 32), device="cuda"),
    )
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype):
            loss = torch.nn.functional.cross_entropy(model(x), label)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all() and losses[-1] < losses[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 32, 6, 10, 40),
        (1, 64, 9, 33, 64),
        (1, 32, 8, 16, 130),
        (2, 64, 4, 1, 64),
        (1, 4, 5, 9, 48),
        (2, 4, 8, 9, 70),
        (2, 48, 7, 11, 50),
        (1, 48, 5, 20, 128),
    ],
)
@pytest.mark.parametrize("outputs", [32, 48])
def test_narrow_convolution_equals_float64_with_its_gradients(shape, outputs, dtype):
    if narrow_conv.obstacle():
        pytest.skip(narrow_conv.obstacle())
    if shape[1] not in (4, *narrow_conv.TAKEN[outputs]):
        pytest.skip("cuDNN convolves")
    torch.manual_seed(0)
    weight = (0.05 * torch.randn(outputs, shape[1], 3, 3, 3)).to(dtype)
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape[0], outputs, *shape[2:]).to(dtype)
    exact = [x.double().requires_grad_(shape[1] != 4), weight.double().requires_grad_()]
    own = [x.cuda().requires_grad_(shape[1] != 4), weight.float().cuda().requires_grad_()]
    want, got = F.conv3d(*exact, padding=1), narrow_conv.narrow_conv(*own)
    want.backward(dy.double())
    got.backward(dy.cuda())
    pairs = [
        (want, got),
        *((e.grad, o.grad) for e, o in zip(exact, own, strict=True) if e.requires_grad),
    ]
    if outputs == 32:
        shift = torch.arange(-16.0, 16.0) / 16
        predicted = narrow_conv.narrow_conv_relu(*(t.detach() for t in own), shift.cuda())
        pairs.insert(0, (F.relu(want + shift[:, None, None, None]), predicted))
    errors = [
        float((b.detach().double().cpu() - a.detach()).norm() / a.detach().norm()) for a, b in pairs
    ]
    assert max(errors) < 3e-3 and errors[-1] < 1e-5, errors  # the weight's gradient is not rounded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 9, 17, 64), (2, 32, 9, 17, 50), (1, 64, 33, 40, 128)])
def test_narrow_convolutions_sum_what_a_norm_needs(shape, dtype):
    if narrow_conv.obstacle():
        pytest.skip(narrow_conv.obstacle())
    torch.manual_seed(0)
    x, weight = (
        torch.randn(shape).to(dtype).cuda(),
        0.05 * torch.randn(32, shape[1], 3, 3, 3).cuda(),
    )
    y, sums = narrow_conv.narrow_conv_sums(x, weight)
    assert torch.equal(y, narrow_conv.narrow_conv(x, weight))
    exact = y.double()
    want = torch.stack([exact, exact.square()], 1).sum((3, 4, 5))
    assert (sums - want).norm() < 1e-5 * want.norm()
    if shape[1] != 32:
        return
    dy, before, factors = (
        torch.randn_like(y),
        torch.randn_like(y),
        torch.randn(shape[0], 2, 32).cuda(),
    )
    dn, sums = narrow_conv.input_gradient_through_norm(dy, weight, before, factors)
    scale, offset = factors[..., None, None, None].unbind(1)
    plain = F.conv_transpose3d(dy.double(), weight.to(dtype).double(), padding=1)
    plain = torch.where(scale * before.double() + offset <= 0, 0, plain)
    assert (dn.double() - plain).norm() < 3e-3 * plain.norm()
    exact = dn.double()
    want = torch.stack([exact, exact * before], 1).sum((3, 4, 5))
    assert (sums - want).norm() < 1e-5 * want.norm()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", [32, 48])
def test_a_convolution_with_a_bias_is_ours_too(channels, bias, monkeypatch):
    if narrow_conv.obstacle():
        pytest.skip(narrow_conv.obstacle())
    torch.manual_seed(0)
    layer = layers.Conv(channels, channels, 3, padding=1, bias=bias).cuda()
    x, calls, convolve = (
        torch.randn(1, channels, 8, 8, 64, device="cuda"),
        [],
        narrow_conv.narrow_conv,
    )
    monkeypatch.setattr(
        narrow_conv, "narrow_conv", lambda *inputs: calls.append(1) or convolve(*inputs)
    )
    with torch.no_grad(), torch.autocast("cuda", torch.float16):
        got = layer(x)
    offset = layer.bias.double() if bias else None
    want = F.conv3d(x.double(), layer.weight.double(), offset, padding=1)
    assert calls and (got - want).norm() < 3e-3 * want.norm()


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_compiled_block_equals_the_plain_one(norm):
    if narrow_conv.obstacle():
        pytest.skip(narrow_conv.obstacle())
    torch.manual_seed(0)
    block = blocks.ConvBlock(64, 32, norm).cuda().train()
    x, found = torch.randn(2, 64, 24, 24, 64, device="cuda"), []
    for compiled in (False, True):
        one = copy.deepcopy(block)
        with torch.autocast("cuda", torch.float16):
            y = (torch.compile(one, fullgraph=True) if compiled else one)(x.requires_grad_())
        inputs = [x, *one.parameters()]
        gradients = torch.autograd.grad(
            (y * torch.linspace(-1, 1, 64, device="cuda")).sum(), inputs
        )
        found.append([y.detach(), *gradients, *(b.float() for b in one.buffers())])
    for want, got in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-2 * want.norm()


def test_the_network_with_narrow_convolutions_equals_itself_with_cudnn(monkeypatch):
    if narrow_conv.obstacle():
        pytest.skip(narrow_conv.obstacle())
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, base_channels=32)).cuda().eval()
    x, outputs, calls, fits = torch.randn(1, 4, 32, 32, 64, device="cuda"), [], [], narrow_conv.fits
    for allowed in (True, False):
        monkeypatch.setattr(
            narrow_conv,
            "fits",
            lambda *args, allowed=allowed: allowed and fits(*args) and not calls.append(1),
        )
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            outputs.append(model(x).double())
    assert len(calls) == 6  # stem, stage 1 and the last decoder: two convolutions each
    assert (outputs[0] - outputs[1]).norm() / outputs[1].norm() < 5e-3


def test_checkpointed_stages_compile_and_give_the_same_gradients(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    x, gradients = torch.randn(2, 4, 48, 32, 32, device="cuda"), []
    for stages in ((), (1, 3)):
        torch._dynamo.reset()
        torch.manual_seed(1)
        model = (
            build_model(dataclasses.replace(SMALL, norm="instance", checkpoint_stages=stages))
            .cuda()
            .train()
        )
        torch.compile(model, fullgraph=True)(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    largest = max(g.norm() for g in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert (plain - checkpointed).norm() < 5e-3 * plain.norm() + 1e-4 * largest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_500_steps_on_phantoms_at_the_preset_rate_stay_finite(dtype):
    config, size = preset("quick"), (96, 96, 64)
    torch.manual_seed(0)
    cases = [make_case(0, index, size) for index in range(2)]
    images = torch.stack(
        [torch.from_numpy(np.stack(list(images.values()))).float() for images, _, _ in cases]
    )
    images = (
        (images - images.mean((2, 3, 4), keepdim=True)) / images.std((2, 3, 4), keepdim=True)
    ).cuda()
    labels = torch.stack(
        [torch.from_numpy(label.astype(np.int64)).clamp_max(3) for _, label, _ in cases]
    ).cuda()
    model = build_model(config.model).cuda()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay, fused=True
    )
    scaler, losses = torch.amp.GradScaler(enabled=dtype == torch.float16), []
    for _ in range(500):
        at = torch.randint(0, 33, (2,)).tolist()
        crop = (..., slice(at[0], at[0] + 64), slice(at[1], at[1] + 64), slice(None))
        with torch.autocast("cuda", dtype):
            loss = F.cross_entropy(model(images[crop]).float(), labels[crop])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    losses = torch.stack(losses).cpu()
    assert losses.isfinite().all() and losses[-20:].mean() < 0.5 * losses[:20].mean(), losses
    assert all(p.isfinite().all() for p in model.parameters())
