"""Mamba-2's products of matrices against the recurrence, in float64, gradients included."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model, decay_groups
from segmamba.models.duality import CHUNK_TOKENS, GROUP_CHUNKS, dual_scan
from segmamba.models.mamba2 import DualScan
from segmamba.models.mixers import mixer_block
from tests.tiny import TINY

NAMES = ("x", "delta", "A", "B", "C", "D", "bias")
SMALL = TINY.changed({"model.base_channels": 4, "model.mamba_depths": (1, 1, 1)}).model


def random_inputs(tokens, *, heads=3, width=4, states=5, delta_scale=1.0, dtype=torch.float64):
    """Inputs of two sequences."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    inputs = (
        normal(2, tokens, heads, width),
        delta_scale * normal(2, tokens, heads),
        -normal(heads).exp(),
        normal(2, tokens, states),
        normal(2, tokens, states),
        normal(heads),
        normal(heads),
    )
    return [t.to(dtype).requires_grad_() for t in inputs]


def recurrence(x, delta, A, B, C, D, bias):
    """Equation by equation: one sequence, head and token after the other."""
    rows = []
    for b in range(x.shape[0]):
        heads = []
        for h in range(x.shape[2]):
            state, outputs = torch.zeros(B.shape[-1], x.shape[-1], dtype=x.dtype), []
            for t in range(x.shape[1]):
                step = torch.log1p(torch.exp(delta[b, t, h] + bias[h]))
                state = torch.exp(step * A[h]) * state + torch.outer(B[b, t], step * x[b, t, h])
                outputs.append(C[b, t] @ state + D[h] * x[b, t, h])
            heads.append(torch.stack(outputs))
        rows.append(torch.stack(heads, dim=1))
    return torch.stack(rows)


def with_gradients(function, inputs, **options):
    y = function(*inputs, **options)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))]


@pytest.mark.parametrize("implementation", ["auto", "sequential"])
@pytest.mark.parametrize("tokens", [1, 2, 17, CHUNK_TOKENS, CHUNK_TOKENS + 1, 200])
def test_products_of_matrices_equal_the_recurrence_with_all_gradients(tokens, implementation):
    inputs = random_inputs(tokens)
    wanted = with_gradients(recurrence, inputs)
    got = with_gradients(dual_scan, inputs, implementation=implementation)
    for name, a, b in zip(("y", *NAMES), got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10), name


def test_states_are_handed_on_through_groups_of_groups():
    # a state that is kept for all tokens: what the first brings in is seen by the last
    tokens = CHUNK_TOKENS * GROUP_CHUNKS**2 + 3 * CHUNK_TOKENS + 5
    inputs = random_inputs(tokens, heads=1, width=1, states=1)
    with torch.no_grad():
        inputs[2].fill_(-1e-6)
        got, wanted = (
            dual_scan(*inputs, implementation=implementation)
            for implementation in ("auto", "sequential")
        )
    assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_steps_forget_without_nan(dtype):
    inputs = random_inputs(300, delta_scale=300.0, dtype=dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted = with_gradients(dual_scan, exact, implementation="sequential")
    for name, a, b in zip(("y", *NAMES), with_gradients(dual_scan, inputs), wanted, strict=True):
        assert a.isfinite().all(), name
        assert (a - b).norm() <= (1e-3 if dtype == torch.float32 else 1e-9) * b.norm(), name


def test_single_precision_is_within_1e_5_and_half_inputs_within_their_own_rounding():
    inputs = random_inputs(400, dtype=torch.float32)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        low = [
            t.detach().to(dtype if name in ("x", "delta", "B", "C") else torch.float32)
            for name, t in zip(NAMES, inputs, strict=True)
        ]
        wanted = dual_scan(*(t.double() for t in low), implementation="sequential")
        got = dual_scan(*low)
        assert got.dtype == dtype
        assert (got.double() - wanted).norm() < tolerance * wanted.norm()


def test_a_layer_of_the_recurrence_has_the_weights_and_the_result_of_the_products():
    torch.manual_seed(0)
    config = ModelConfig(mixer="mamba2", d_state=4, scan_order="tri", scan_path="snake")
    products = mixer_block(16, config).double()
    recurrent = mixer_block(16, dataclasses.replace(config, scan="sequential")).double()
    recurrent.load_state_dict(products.state_dict())
    x = torch.randn(1, 16, 3, 5, 7, dtype=torch.float64)
    assert torch.allclose(products(x), recurrent(x), atol=1e-10)


def test_a_layer_has_the_parameters_of_its_authors():
    block = mixer_block(128, ModelConfig(mixer="mamba2", d_state=64))
    shapes = {name: tuple(p.shape) for name, p in block.mamba.scans[0].named_parameters()}
    assert shapes == {
        "bcdt_proj.weight": (2 * 64 + 4, 128),
        "conv1d.weight": (256 + 2 * 64, 1, 4),
        "conv1d.bias": (256 + 2 * 64,),
        "dt_bias": (4,),
        "A_log": (4,),
        "D": (4,),
    }


@pytest.mark.parametrize(("inner", "heads"), [(256, 4), (96, 3), (16, 1), (100, 25)])
def test_heads_have_64_channels_or_as_many_as_divide_the_inner_ones(inner, heads):
    scan = DualScan(8, inner, d_state=2, d_conv=4, implementation="auto")
    assert scan.heads == heads


def test_first_steps_and_decays_are_in_the_authors_ranges():
    torch.manual_seed(0)
    scan = DualScan(8, 64 * 200, d_state=2, d_conv=4, implementation="auto")
    step, A = torch.nn.functional.softplus(scan.dt_bias), scan.A_log.exp()
    assert 1e-3 <= step.min() < 2e-3 and 5e-2 < step.max() <= 0.1 + 1e-6
    assert 1 <= A.min() < 2 and 15 < A.max() <= 16 + 1e-5


def test_its_decays_steps_and_norms_are_not_decayed():
    model = build_model(dataclasses.replace(SMALL, mixer="mamba2"))
    free = {id(p) for p in decay_groups(model)[1]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in free) == (parameter.dim() == 1), name


def test_its_cost_grows_with_the_tokens_and_not_with_their_square():
    flops = []
    for tokens in (1024, 4096):
        inputs = [t.detach().to("meta") for t in random_inputs(tokens)]
        with FlopCounterMode(display=False) as counter:
            dual_scan(*inputs)
        flops.append(counter.get_total_flops())
    assert flops[1] == pytest.approx(4 * flops[0], rel=0.02)


@pytest.mark.parametrize("scan", ["native", "triton", "mamba_ssm"])
def test_kernels_of_the_other_scan_are_refused(scan):
    with pytest.raises(UserError, match=f"model.scan = '{scan}': .*mamba2 takes auto"):
        ModelConfig(mixer="mamba2", scan=scan)
