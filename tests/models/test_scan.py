"""Every implementation of the selective scan computes the oracle's recurrence, exactly.

Memory is bounded.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segmamba.errors import UserError
from segmamba.models import cpu_library, scan, scan_native, scan_portable
from segmamba.models.scan import causal_conv_silu, choose_scan, selective_scan
from tests.models.kernels import needs_kernels, threads

NAMES = ("x", "delta", "A", "B", "C", "D", "bias")


def random_inputs(
    batch=2, length=37, channels=3, states=4, *, dtype=torch.float64, delta_scale=1.0
):
    generator = torch.Generator().manual_seed(length)
    normal = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    x, delta = normal(batch, length, channels), delta_scale * normal(batch, length, channels)
    B, C, D, bias = (
        normal(batch, length, states),
        normal(batch, length, states),
        normal(channels),
        normal(channels),
    )
    return [
        t.to(dtype).requires_grad_()
        for t in (x, delta, -normal(channels, states).exp(), B, C, D, bias)
    ]


def output_and_gradients(implementation, inputs):
    y = selective_scan(*inputs, implementation=implementation)
    return dict(
        zip(
            ("y", *NAMES),
            (y, *torch.autograd.grad(y, inputs, torch.cos(inputs[0].detach()))),
            strict=True,
        )
    )


def assert_matches_oracle(inputs, *, implementation="portable", tolerance):
    got = output_and_gradients(implementation, inputs)
    want = output_and_gradients(
        "sequential", [t.detach().double().requires_grad_() for t in inputs]
    )
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
    assert_matches_oracle(
        random_inputs(length=600, channels=16, states=16, dtype=torch.float32), tolerance=1e-5
    )


def test_large_steps_forget_without_nan(short_segments):
    inputs = random_inputs(length=150, dtype=torch.float32, delta_scale=100.0)
    exponent = torch.nn.functional.softplus(inputs[1] + inputs[6]).unsqueeze(-1) * inputs[2]
    assert exponent.min() < -200  # exp of it is 0 in fp32
    assert_matches_oracle(inputs, tolerance=1e-5)


def test_portable_gradients_pass_gradcheck(short_segments):
    inputs = random_inputs(batch=1, length=70, channels=2, states=2)
    assert torch.autograd.gradcheck(selective_scan, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(
        selective_scan, random_inputs(batch=1, length=7, channels=2, states=2)
    )


@pytest.mark.parametrize("implementation", ["portable", "sequential"])
def test_state_stays_fp32_inside_autocast(implementation):
    inputs = [t.detach() for t in random_inputs(length=300, dtype=torch.float32)]
    low = [t.bfloat16().float() for t in inputs]
    inputs = [
        t.bfloat16() if name in ("x", "delta", "B", "C") else t
        for name, t in zip(NAMES, low, strict=True)
    ]
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*inputs, implementation=implementation)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, selective_scan(*low, implementation=implementation).bfloat16())


def test_gradients_stay_fp32_when_the_backward_runs_inside_autocast():
    inputs = random_inputs(length=100, dtype=torch.float32)
    want = output_and_gradients("portable", inputs)
    with torch.autocast("cpu", torch.bfloat16):
        got = output_and_gradients("portable", inputs)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_operator_keeps_torchs_rules_for_fake_tensors_and_autograd():
    torch.library.opcheck(
        torch.ops.segmamba.portable_scan.default, tuple(random_inputs(dtype=torch.float32))
    )


def test_scan_gives_shapes_of_meta_tensors():
    inputs = [
        t.detach().to("meta").requires_grad_()
        for t in random_inputs(length=5000, dtype=torch.float32)
    ]
    got = output_and_gradients("auto", inputs)
    assert got["y"].shape == inputs[0].shape and got["A"].shape == inputs[2].shape


def test_a_cpu_without_a_compiler_takes_the_portable_scan_and_says_why_not_the_others(monkeypatch):
    monkeypatch.setattr(cpu_library, "find_library", lambda: (None, "no C compiler found"))
    name, reason = choose_scan("auto", "cpu")
    assert name == "portable"
    assert all(text in reason for text in ("mamba_ssm", "triton", "native: no C compiler found"))
    with pytest.raises(UserError, match=r"model.scan = 'native'.*no C compiler.*=auto"):
        choose_scan("native", "cpu")


@needs_kernels
def test_a_cpu_with_a_compiler_takes_the_native_scan():
    assert choose_scan("auto", "cpu")[0] == "native"
    with pytest.raises(UserError, match="needs a CPU, not cuda"):
        choose_scan("native", "cuda")


@needs_kernels
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
def test_native_scan_equals_the_oracle_at_every_length(length):
    inputs = random_inputs(length=length, channels=32, dtype=torch.float32)
    assert_matches_oracle(inputs, implementation="native", tolerance=5e-6)


@needs_kernels
def test_native_scan_forgets_after_large_steps_without_nan():
    inputs = random_inputs(length=150, channels=16, dtype=torch.float32, delta_scale=100.0)
    assert_matches_oracle(inputs, implementation="native", tolerance=1e-5)


@needs_kernels
@pytest.mark.parametrize(
    ("channels", "dtype"), [(3, torch.float32), (16, torch.float64)], ids=["channels", "dtype"]
)
def test_native_scan_leaves_to_the_portable_one_what_its_kernels_do_not_take(channels, dtype):
    inputs = random_inputs(length=70, channels=channels, dtype=dtype)
    want, got = (output_and_gradients(name, inputs) for name in ("portable", "native"))
    assert all(torch.equal(got[name], want[name]) for name in want)


@needs_kernels
def test_native_scan_gives_the_same_in_several_threads():
    inputs = random_inputs(batch=3, length=70, channels=48, dtype=torch.float32)
    one = output_and_gradients("native", inputs)
    with threads(2):
        two = output_and_gradients("native", inputs)
    assert all(torch.equal(one[name], two[name]) for name in one)


@needs_kernels
def test_native_operator_keeps_torchs_rules_for_fake_tensors_and_autograd():
    inputs = tuple(random_inputs(length=70, channels=16, dtype=torch.float32))
    torch.library.opcheck(
        torch.ops.segmamba.native_scan.default,
        inputs,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("missing", "eager", "compiled"),
    [
        ((), "mamba_ssm", "triton"),
        (("mamba_ssm",), "triton", "triton"),
        (("triton",), "mamba_ssm", "mamba_ssm"),
    ],
)
def test_a_gpu_takes_triton_when_compiling_and_mamba_ssm_otherwise(
    monkeypatch, missing, eager, compiled
):
    for name in ("mamba_ssm", "triton"):
        monkeypatch.setattr(
            scan,
            f"_{name}_obstacle",
            lambda device_type, name=name: "absent" if name in missing else None,
        )
    assert choose_scan("auto", "cuda")[0] == eager
    assert choose_scan("auto", "cuda", compiling=True)[0] == compiled


@pytest.mark.parametrize("requested", ["mamba_ssm", "triton"])
def test_a_scan_that_cannot_run_is_refused_with_the_setting_to_change(requested, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match=f"model.scan = '{requested}'.*model.scan=auto"):
        choose_scan(requested, "cpu")


@pytest.mark.parametrize("width", [1, 4, 7])
def test_causal_convolution_sees_no_later_token(width):
    x, weight, bias = torch.randn(2, 9, 3), torch.randn(3, 1, width), torch.randn(3)
    y = causal_conv_silu(x, weight, bias)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (width - 1, 0))
    assert torch.allclose(
        y,
        torch.nn.functional.silu(
            torch.nn.functional.conv1d(padded, weight, bias, groups=3)
        ).transpose(1, 2),
        atol=1e-5,
    )
    x[:, 5:] = 0
    assert torch.equal(causal_conv_silu(x, weight, bias)[:, :5], y[:, :5])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("shape", "segment"), [((1, 5, 3, 4), 64), ((2, 37, 40, 3), 64), ((1, 600, 8, 2), 16)]
)
def test_triton_kernels_equal_the_oracle_in_tritons_interpreter(shape, segment):
    script = f"""
import torch
from segmamba.models import scan_triton
from tests.models.test_scan import assert_matches_oracle, random_inputs
scan_triton.SEGMENT = {segment}
inputs = random_inputs(*{shape}, dtype=torch.float32)
assert_matches_oracle(inputs, implementation="triton", tolerance=1e-5)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=300,
    )


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned.

    It counts the steps of a recurrence (addcmul) as well.
    """

    elements = steps = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(
                    self.elements, tensor.untyped_storage().nbytes() // tensor.element_size()
                )
        self.steps += "addcmul" in func.name()
        return result


def test_no_tensor_holds_a_state_for_every_token_and_no_loop_visits_every_token():
    length, channels, states = 2048, 64, 16
    inputs = random_inputs(
        batch=1, length=length, channels=channels, states=states, dtype=torch.float32
    )
    inputs = [t.detach() for t in inputs]
    with LargestTensor() as seen:
        y, borders = scan_portable.scan_forward(*inputs)
        scan_portable.scan_backward(y, *inputs, borders)
    assert seen.elements <= length * channels * states / 8
    # forward, recomputation and backward together; a loop over tokens would take 3 * length
    assert 0 < seen.steps < length


def test_portable_scan_is_deterministic():
    first, second = (
        output_and_gradients("portable", random_inputs(length=500, dtype=torch.float32))
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_kernels
def test_inputs_in_half_precision_beside_a_scan_in_fp32_are_read_as_what_they_are():
    x, delta, A, B, C, D, bias = random_inputs(length=70, channels=32, dtype=torch.float32)
    delta, B, C = (t.detach().bfloat16() for t in (delta, B, C))
    inputs = [t.detach() for t in (x, delta, A, B, C, D, bias)]
    y, states = scan_native.scan_forward(*inputs)
    exact = [t.float() for t in inputs]
    want, wanted_states = scan_portable.scan_forward(*exact)
    assert torch.allclose(y, want, rtol=1e-4, atol=1e-4)
    got = scan_native.scan_backward(torch.ones_like(y), *inputs, states)
    wanted = scan_portable.scan_backward(torch.ones_like(y), *exact, wanted_states)
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine.float() - theirs).norm() < 0.01 * theirs.norm()
    assert [t.dtype for t in got] == [t.dtype for t in inputs]
