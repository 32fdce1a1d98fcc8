"""On a CUDA device: kernels against the oracle, compilation, and checkpoints that go between CPU and GPU. Run by `make test-gpu`."""

import dataclasses

import pytest
import torch

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.scan import causal_conv_silu, choose_scan, selective_scan
from tests.models.test_scan import NAMES, random_inputs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SMALL = ModelConfig(base_channels=8, conv_depths=(1, 1, 1), mamba_depths=(1, 1, 1))
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of inputs and output rounded to the dtype
KERNELS = ["triton", "mamba_ssm"]


@pytest.fixture(params=KERNELS)
def kernel(request):
    try:
        choose_scan(request.param, "cuda")
    except UserError as error:
        pytest.skip(str(error))
    return request.param


def errors_against_oracle(kernel, inputs, dtype):
    """Relative error of output and gradients, in float64, of a kernel whose x, delta, B and C have `dtype`."""
    low = [t.detach().to(dtype) if name in ("x", "delta", "B", "C") else t.detach() for name, t in zip(NAMES, inputs, strict=True)]
    dy = torch.randn(low[0].shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    results = {}
    for implementation, device in (("sequential", "cpu"), (kernel, "cuda")):
        own = [(t.double() if device == "cpu" else t.to(device)).requires_grad_() for t in low]
        y = selective_scan(*own, implementation=implementation)
        results[implementation] = [y.detach(), *torch.autograd.grad(y, own, dy.to(y))]
    want, got = (results[name] for name in ("sequential", kernel))
    return {n: float((g.cpu().double() - w).norm() / w.norm()) for n, g, w in zip(("y", *NAMES), got, want, strict=True)}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 18, 64, 16), (1, 1000, 40, 16), (2, 333, 96, 8)])
def test_kernel_equals_the_oracle_with_its_gradients(kernel, shape, dtype):
    errors = errors_against_oracle(kernel, random_inputs(*shape, dtype=torch.float32), dtype)
    assert max(errors.values()) < TOLERANCE[dtype], errors


def test_large_steps_forget_without_nan_on_the_gpu(kernel):
    errors = errors_against_oracle(kernel, random_inputs(2, 500, 32, 16, dtype=torch.float32, delta_scale=100.0), torch.float32)
    assert max(errors.values()) < 1e-4, errors


def test_triton_scan_is_deterministic():
    inputs = [t.detach().cuda().requires_grad_() for t in random_inputs(2, 2000, 64, 16, dtype=torch.float32)]
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
    for implementation, device, kind in (("portable", "cpu", torch.float64), ("mamba_ssm", "cuda", dtype)):
        xz, weight, bias = own = [t.to(device, kind if i == 0 or device == "cpu" else t.dtype).requires_grad_() for i, t in enumerate(inputs)]
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
    on_cpu.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True, map_location="cpu"), strict=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_training_in_half_precision_stays_finite(kernel, dtype):
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SMALL, scan=kernel)).cuda()
    optimiser, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler(enabled=dtype == torch.float16)
    x, label = torch.randn(2, 4, 48, 48, 32, device="cuda"), torch.randint(4, (2, 48, 48, 32), device="cuda")
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", dtype):
            loss = torch.nn.functional.cross_entropy(model(x), label)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all() and losses[-1] < losses[0]
