"""The selective scan: one function, four implementations behind it, the same parameters for all.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t h_t + D x_t        (Gu & Dao 2023, section 3; h_0 = 0)

with delta = softplus(raw delta + bias): the zero-order hold of A and the Euler step of B that the paper's code uses.

All but the oracle are torch operators with a registered backward and with shapes that are known without running them:
torch.compile takes the network as one graph whichever runs, and meta tensors pass through.

Legend: b batch, l tokens, c channels, n states (N). x, delta (b, l, c); A (c, n), negative; B, C (b, l, n); D, bias (c).
"""

import contextlib
import importlib
import importlib.util
import os

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.errors import UserError
from segmamba.models.compiling import constant_result


def selective_scan(x, delta, A, B, C, D, bias, *, implementation="auto"):
    """y (b, l, c) in the dtype of x. State and softplus have the dtype of A, which is fp32 inside autocast too."""
    name = _chosen(implementation, x.device.type, torch.compiler.is_compiling())
    return IMPLEMENTATIONS[name](x, delta, A, B, C, D, bias)


def causal_conv_silu(x, weight, bias, *, implementation="auto"):
    """SiLU of the depthwise convolution along the tokens that sees no later token. x (b, l, c), weight (c, 1, width), bias (c)."""
    if _chosen(implementation, x.device.type, torch.compiler.is_compiling()) == "mamba_ssm":
        from segmamba.models import scan_mamba_ssm

        return scan_mamba_ssm.causal_conv_silu(x, weight, bias)
    width, length = weight.shape[-1], x.shape[1]
    x, taps = F.pad(x, (0, 0, width - 1, 0)), weight.squeeze(1).to(x.dtype).t()
    total = bias.to(x.dtype) + sum(x[:, k : k + length] * taps[k] for k in range(width))
    return F.silu(total)


def sequential_scan(x, delta, A, B, C, D, bias):
    """The recurrence, token by token, differentiated by autograd: the oracle. Computes in the dtype of A; use float64 to check others."""
    y_dtype, (x, delta, B, C) = x.dtype, (t.to(A.dtype) for t in (x, delta, B, C))
    delta = F.softplus(delta + bias)
    state, outputs = x.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    return (torch.stack(outputs, dim=1) + D * x).to(y_dtype)


def scan_operator(name):
    """segmamba::<name>_scan, from the module segmamba.models.scan_<name>, which is imported when the operator first runs.

    The module has scan_forward(*inputs) -> y, states; scan_backward(dy, *inputs, states) -> seven gradients, each in the dtype
    of its input; states_shape(x, A). States have the dtype of A.
    """

    def module():
        return importlib.import_module(f"segmamba.models.scan_{name}")

    @torch.library.custom_op(f"segmamba::{name}_scan", mutates_args=())
    def scan(
        x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        with _without_autocast(x):
            y, states = module().scan_forward(
                *(t.contiguous() for t in (x, delta, A, B, C, D, bias))
            )
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
        with _without_autocast(x):
            gradients = module().scan_backward(
                *(t.contiguous() for t in (dy, x, delta, A, B, C, D, bias, states))
            )
        return tuple(t.contiguous() for t in gradients)

    @scan.register_fake
    def _(x, delta, A, *_):
        return x.new_empty(x.shape), A.new_empty(module().states_shape(x, A))

    @scan_backward.register_fake
    def _(dy, *inputs_and_states):
        return tuple(t.new_empty(t.shape) for t in inputs_and_states[:-1])

    scan.register_autograd(
        lambda ctx, dy, _: scan_backward(dy.contiguous(), *ctx.saved_tensors),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output[1]),
    )
    return lambda *inputs: scan(*(t.contiguous() for t in inputs))[
        0
    ]  # here, copies are torch.compile's to fuse


def _without_autocast(x):
    """Autocast would turn the scan's fp32 products into half precision. A meta tensor's device has no autocast to turn off."""
    if not torch.amp.is_autocast_available(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


IMPLEMENTATIONS = {
    "sequential": sequential_scan,
    **{name: scan_operator(name) for name in ("portable", "mamba_ssm", "triton")},
}


def choose_scan(requested, device_type, *, compiling=False):
    """(name in IMPLEMENTATIONS, why) for `model.scan` on a device type; UserError where the requested one cannot run there.

    On a GPU, auto takes Triton inside torch.compile and mamba-ssm outside: the paper network's six scans, forward and backward as CUDA
    graphs on an H100, take 2.4 ms against 3.7 ms, but Triton has more launches, which only a graph makes free.
    """
    obstacles = {
        "mamba_ssm": _mamba_ssm_obstacle(device_type),
        "triton": _triton_obstacle(device_type),
    }
    if requested == "auto":
        preferred = ("triton", "mamba_ssm") if compiling else ("mamba_ssm", "triton")
        for name in preferred:
            if obstacles[name] is None:
                return name, "the fastest that runs here"
        return "portable", "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
    if obstacles.get(requested):
        raise UserError(
            f"model.scan = {requested!r}: {obstacles[requested]}; set model.scan=auto, which takes what runs"
        )
    return requested, "as model.scan says"


def _mamba_ssm_obstacle(device_type):
    if device_type != "cuda":
        return f"needs a CUDA device, not {device_type}"
    missing = [
        name
        for name in ("selective_scan_cuda", "causal_conv1d_cuda")
        if importlib.util.find_spec(name) is None
    ]
    return (
        f"{' and '.join(missing)} not installed (pip install '.[cuda]' builds them)"
        if missing
        else None
    )


def _triton_obstacle(device_type):
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (torch's CUDA builds bring it)"
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None  # triton's interpreter, by which the kernels are tested
    if device_type != "cuda":
        return f"needs a CUDA device, not {device_type}"
    capability = torch.cuda.get_device_capability()
    return (
        None
        if capability >= (7, 0)
        else f"needs a GPU of compute capability 7.0, not {'.'.join(map(str, capability))}"
    )


_CHOICES = {}


@constant_result
def _chosen(requested, device_type, compiling):
    key = requested, device_type, compiling
    if key not in _CHOICES:
        _CHOICES[key], _ = choose_scan(requested, device_type, compiling=compiling)
    return _CHOICES[key]
