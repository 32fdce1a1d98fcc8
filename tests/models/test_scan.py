"""Every implementation of the selective scan computes the oracle's recurrence, exactly, in bounded memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segmamba.models import scan_portable
from segmamba.models.scan import selective_scan

NAMES = ("x", "delta", "A", "B", "C", "D", "bias")


def random_inputs(batch=2, length=37, channels=3, states=4, *, dtype=torch.float64, delta_scale=1.0):
    generator = torch.Generator().manual_seed(length)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x, delta = normal(batch, length, channels), delta_scale * normal(batch, length, channels)
    B, C, D, bias = normal(batch, length, states), normal(batch, length, states), normal(channels), normal(channels)
    return [t.to(dtype).requires_grad_() for t in (x, delta, -normal(channels, states).exp(), B, C, D, bias)]


def output_and_gradients(implementation, inputs):
    y = selective_scan(*inputs, implementation=implementation)
    return dict(zip(("y", *NAMES), (y, *torch.autograd.grad(y, inputs, torch.cos(inputs[0].detach()))), strict=True))


def assert_matches_oracle(inputs, *, implementation="portable", tolerance):
    got = output_and_gradients(implementation, inputs)
    want = output_and_gradients("sequential", [t.detach().double().requires_grad_() for t in inputs])
    for name, exact in want.items():
        error = (got[name].double() - exact).norm() / exact.norm().clamp_min(1e-30)
        assert error < tolerance, f"{name}: relative error {error:.1e}"


@pytest.fixture
def short_segments(monkeypatch):
    """A segment of 64 tokens of `random_inputs`, so that short sequences cross segments."""
    monkeypatch.setattr(scan_portable, "SEGMENT_ELEMENTS", 64 * 2 * 3 * 4)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 65, 200])
def test_portable_scan_equals_the_oracle_at_every_length(short_segments, length):
    assert_matches_oracle(random_inputs(length=length), tolerance=1e-12)


def test_portable_scan_in_fp32_is_within_1e_5_of_the_float64_oracle():
    assert_matches_oracle(random_inputs(length=600, channels=16, states=16, dtype=torch.float32), tolerance=1e-5)


def test_large_steps_forget_without_nan(short_segments):
    inputs = random_inputs(length=150, dtype=torch.float32, delta_scale=100.0)
    assert (torch.nn.functional.softplus(inputs[1] + inputs[6]).unsqueeze(-1) * inputs[2]).min() < -200  # exp of it is 0 in fp32
    assert_matches_oracle(inputs, tolerance=1e-5)


def test_portable_gradients_pass_gradcheck(short_segments):
    inputs = random_inputs(batch=1, length=70, channels=2, states=2)
    assert torch.autograd.gradcheck(scan_portable.portable_scan, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(scan_portable.portable_scan, random_inputs(batch=1, length=7, channels=2, states=2))


@pytest.mark.parametrize("implementation", ["portable", "sequential"])
def test_state_stays_fp32_inside_autocast(implementation):
    inputs = [t.detach() for t in random_inputs(length=300, dtype=torch.float32)]
    low = [t.bfloat16().float() for t in inputs]
    inputs = [t.bfloat16() if name in ("x", "delta", "B", "C") else t for name, t in zip(NAMES, low, strict=True)]
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*inputs, implementation=implementation)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, selective_scan(*low, implementation=implementation).bfloat16())


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned, and how many steps of a recurrence (addcmul) ran."""

    elements = steps = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        self.steps += "addcmul" in func.name()
        return result


def test_no_tensor_holds_a_state_for_every_token_and_no_loop_visits_every_token():
    length, channels, states = 2048, 64, 16
    inputs = random_inputs(batch=1, length=length, channels=channels, states=states, dtype=torch.float32)
    with LargestTensor() as seen:
        output_and_gradients("portable", inputs)
    assert seen.elements <= length * channels * states / 8
    assert 0 < seen.steps < length  # forward, recomputation and backward together; a loop over tokens would take 3 * length


def test_portable_scan_is_deterministic():
    first, second = (output_and_gradients("portable", random_inputs(length=500, dtype=torch.float32)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
