"""The selective scan: one function, five implementations behind it, the same parameters for all.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = C_t h_t + D x_t                              (Gu & Dao 2023, section 3; h_0 = 0)

with delta = softplus(raw delta + bias): the zero-order hold of A and the Euler step of B that the
paper's code uses.

All but the oracle are torch operators with a registered backward and with shapes that are known
without running them: torch.compile takes the network as one graph whichever runs, and meta tensors
pass through.

Legend: b batch, l tokens, c channels, n states (N). x, raw delta, y (b, l, c); A (c, n), negative;
B, C (b, l, n); D, bias (c).
"""

import contextlib
import importlib.util
import os
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.errors import UserError
from segmamba.models.compiling import constant_result
from segmamba.models.scan_export import exported_scan
from segmamba.models.scan_types import Gradients, Scan, ScanKernels


def selective_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Run the recurrence along the tokens.

    State and softplus have the dtype of A, which is fp32 inside autocast too.

    Args:
        x: (b, l, c).
        delta: Raw step sizes (b, l, c), before bias and softplus.
        A: (c, n), negative.
        B: (b, l, n).
        C: (b, l, n).
        D: (c).
        bias: (c), added to `delta`.
        implementation: `model.scan`.

    Returns:
        y (b, l, c) in the dtype of x.

    Raises:
        UserError: The implementation cannot run on the inputs' device.
    """
    name = _chosen(implementation, x.device.type, torch.compiler.is_compiling())
    return IMPLEMENTATIONS[name](x, delta, A, B, C, D, bias)


def causal_conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, implementation: str = "auto"
) -> Tensor:
    """SiLU of the depthwise convolution along the tokens that sees no later token.

    Args:
        x: (b, l, c).
        weight: (c, 1, width); the last tap is the token itself.
        bias: (c).
        implementation: `model.scan`.

    Returns:
        (b, l, c) in the dtype of x.

    Raises:
        UserError: The implementation cannot run on the inputs' device.
    """
    if _chosen(implementation, x.device.type, torch.compiler.is_compiling()) == "mamba_ssm":
        from segmamba.models import scan_mamba_ssm

        return scan_mamba_ssm.causal_conv_silu(x, weight, bias)
    width, length = weight.shape[-1], x.shape[1]
    x, taps = F.pad(x, (0, 0, width - 1, 0)), weight.squeeze(1).to(x.dtype).t()
    total = bias.to(x.dtype) + sum(x[:, k : k + length] * taps[k] for k in range(width))
    return F.silu(total)


def sequential_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """The recurrence, token by token, differentiated by autograd: the oracle of the tests.

    It computes in the dtype of A; float64 checks the other implementations.

    Args:
        x: (b, l, c).
        delta: Raw step sizes (b, l, c).
        A: (c, n), negative.
        B: (b, l, n).
        C: (b, l, n).
        D: (c).
        bias: (c).

    Returns:
        y (b, l, c) in the dtype of x.
    """
    y_dtype, (x, delta, B, C) = x.dtype, (t.to(A.dtype) for t in (x, delta, B, C))
    delta = F.softplus(delta + bias)
    state, outputs = x.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    return (torch.stack(outputs, dim=1) + D * x).to(y_dtype)


def scan_kernels(name: str) -> ScanKernels:
    """The module behind an operator, imported when it is first asked for.

    Args:
        name: "portable", "native", "mamba_ssm" or "triton".

    Returns:
        The module segmamba.models.scan_<name>.
    """
    if name == "mamba_ssm":
        from segmamba.models import scan_mamba_ssm

        return scan_mamba_ssm
    if name == "triton":
        from segmamba.models import scan_triton

        return scan_triton
    if name == "native":
        from segmamba.models import scan_native

        return scan_native
    from segmamba.models import scan_portable

    return scan_portable


def scan_operator(name: str) -> Scan:
    """Register the torch operator segmamba::<name>_scan, which `scan_kernels(name)` computes.

    Args:
        name: "portable", "native", "mamba_ssm" or "triton".

    Returns:
        The operator, without the states that its backward starts from.
    """

    @torch.library.custom_op(f"segmamba::{name}_scan", mutates_args=())
    def scan(
        x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = (t.contiguous() for t in (x, delta, A, B, C, D, bias))
        with without_autocast(x):
            y, states = scan_kernels(name).scan_forward(*inputs)
        return y.contiguous(), states

    @torch.library.custom_op(f"segmamba::{name}_scan_backward", mutates_args=())
    def scan_backward(
        dy: Tensor,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        states: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        inputs = (t.contiguous() for t in (dy, x, delta, A, B, C, D, bias, states))
        with without_autocast(x):
            gradients = scan_kernels(name).scan_backward(*inputs)
        dx, ddelta, dA, dB, dC, dD, dbias = (t.contiguous() for t in gradients)
        return dx, ddelta, dA, dB, dC, dD, dbias

    @scan.register_fake
    def _(x: Tensor, delta: Tensor, A: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape), A.new_empty(scan_kernels(name).states_shape(x, A))

    @scan_backward.register_fake
    def _(dy: Tensor, *inputs_and_states: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.new_empty(t.shape) for t in inputs_and_states[:-1])

    def keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])

    def differentiate(ctx: Any, dy: Tensor, _: Tensor) -> Gradients:
        return scan_backward(dy.contiguous(), *ctx.saved_tensors)

    def output_alone(*inputs: Tensor) -> Tensor:
        # copies that are made here are torch.compile's to fuse
        return scan(*(t.contiguous() for t in inputs))[0]

    scan.register_autograd(differentiate, setup_context=keep)
    return output_alone


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Keep autocast from turning fp32 products into half precision.

    A meta tensor's device has no autocast to turn off, and an exported graph is one of fp32.

    Args:
        x: A tensor on the device.

    Returns:
        The context.
    """
    if torch.compiler.is_exporting() or not _has_autocast(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@constant_result
def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


IMPLEMENTATIONS: dict[str, Scan] = {
    "sequential": sequential_scan,
    **{name: scan_operator(name) for name in ("portable", "native", "mamba_ssm", "triton")},
    "exported": exported_scan,
}
"""The scans by `model.scan`, and the one that stands in exported graphs."""


def choose_scan(requested: str, device_type: str, *, compiling: bool = False) -> tuple[str, str]:
    """Choose the implementation that computes the scan.

    On a GPU, auto takes Triton inside torch.compile and mamba-ssm outside: the paper network's six
    scans, forward and backward as CUDA graphs on an H100, take 2.4 ms against 3.7 ms, but Triton
    has more launches, which only a graph makes free.

    Args:
        requested: `model.scan`.
        device_type: "cpu" or "cuda".
        compiling: Whether torch.compile traces.

    Returns:
        The name in IMPLEMENTATIONS, and the reason in words.

    Raises:
        UserError: The requested implementation cannot run there.
    """
    obstacles = {
        "mamba_ssm": _mamba_ssm_obstacle(device_type),
        "triton": _triton_obstacle(device_type),
        "native": _native_obstacle(device_type),
    }
    if requested == "auto":
        preferred = ("triton", "mamba_ssm") if compiling else ("mamba_ssm", "triton")
        for name in (*preferred, "native"):
            if obstacles[name] is None:
                return name, "the fastest that runs here"
        return "portable", "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
    if obstacles.get(requested):
        raise UserError(
            f"model.scan = {requested!r}: {obstacles[requested]}; set model.scan=auto, which takes "
            "what runs"
        )
    return requested, "as model.scan says"


def _mamba_ssm_obstacle(device_type: str) -> str | None:
    if device_type != "cuda":
        return f"needs a CUDA device, not {device_type}"
    missing = [
        name
        for name in ("selective_scan_cuda", "causal_conv1d_cuda")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install '.[cuda]' builds them)"
    return None


def _triton_obstacle(device_type: str) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (torch's CUDA builds bring it)"
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None  # triton's interpreter, by which the kernels are tested
    if device_type != "cuda":
        return f"needs a CUDA device, not {device_type}"
    if not torch.cuda.is_available():  # torch was built for one, and none is here
        return "needs a CUDA device, and torch sees none"
    capability = torch.cuda.get_device_capability()
    if capability >= (7, 0):
        return None
    return f"needs a GPU of compute capability 7.0, not {'.'.join(map(str, capability))}"


def _native_obstacle(device_type: str) -> str | None:
    if device_type != "cpu":
        return f"needs a CPU, not {device_type}"
    from segmamba.models.cpu_library import find_library

    library, reason = find_library()
    return None if library else reason


_CHOICES: dict[tuple[str, str, bool], str] = {}


@constant_result
def _chosen(requested: str, device_type: str, compiling: bool) -> str:
    key = requested, device_type, compiling
    if key not in _CHOICES:
        _CHOICES[key], _ = choose_scan(requested, device_type, compiling=compiling)
    return _CHOICES[key]
