"""The selective scan by mamba-ssm's CUDA kernel, the causal convolution by causal-conv1d's.

Both packages are imported only when they are called. The kernels want the tokens innermost,
(b, c, l) and (b, 1, n, l), and one dtype.

Legend: b batch, l tokens, c channels, n states.
"""

from typing import Any

import torch
from torch import Tensor

from segmamba.models.scan_types import Gradients

BLOCK = 2048
"""Tokens between two states that the kernel keeps."""


def scan_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """y, and the kernel's own states at every 2048 tokens, (b, c, blocks, 2 n) fp32."""
    import selective_scan_cuda

    inputs = _kernel_inputs(x, delta, A, B, C, D)
    y, states, *_ = selective_scan_cuda.fwd(*inputs, None, bias.float(), True)
    return y.transpose(1, 2), states


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
) -> Gradients:
    """dx, d raw delta, dA, dB, dC, dD, d bias, each in the dtype of its input."""
    import selective_scan_cuda

    dy = dy.to(x.dtype).transpose(1, 2).contiguous()
    inputs = _kernel_inputs(x, delta, A, B, C, D)
    dx, ddelta, dA, dB, dC, dD, dbias, *_ = selective_scan_cuda.bwd(
        *inputs, None, bias.float(), dy, states, None, None, True, False
    )
    dx, ddelta, dB, dC = (t.transpose(1, 2) for t in (dx, ddelta, dB.squeeze(1), dC.squeeze(1)))
    return (
        dx.to(x.dtype),
        ddelta.to(delta.dtype),
        dA.to(A.dtype),
        dB.to(B.dtype),
        dC.to(C.dtype),
        dD.to(D.dtype),
        dbias.to(bias.dtype),
    )


def states_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    """(b, c, blocks, 2 n)."""
    return x.shape[0], x.shape[2], -(-x.shape[1] // BLOCK), 2 * A.shape[1]


def _kernel_inputs(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> tuple[Tensor, ...]:
    x, delta, B, C = (t.to(x.dtype).transpose(1, 2).contiguous() for t in (x, delta, B, C))
    return x, delta, A.float().contiguous(), B.unsqueeze(1), C.unsqueeze(1), D.float()


@torch.library.custom_op("segmamba::causal_conv", mutates_args=())
def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """SiLU of the causal depthwise convolution along the tokens.

    Args:
        x: (b, l, c).
        weight: (c, 1, width).
        bias: (c).

    Returns:
        (b, l, c).
    """
    from causal_conv1d.cpp_functions import causal_conv1d_fwd_function

    y = causal_conv1d_fwd_function(
        _channels_second(x), weight.squeeze(1), bias, None, None, None, True
    )
    return y.transpose(1, 2).contiguous()


@causal_conv_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("segmamba::causal_conv_backward", mutates_args=())
def _causal_conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from causal_conv1d.cpp_functions import causal_conv1d_bwd_function

    x, dy, flat = _channels_second(x), _channels_second(dy.to(x.dtype)), weight.squeeze(1)
    dx, dweight, dbias, *_ = causal_conv1d_bwd_function(
        x, flat, bias, dy, None, None, None, None, False, True
    )
    return dx.transpose(1, 2).contiguous(), dweight.unsqueeze(1), dbias


@_causal_conv_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), torch.empty_like(weight), torch.empty_like(bias)


def _channels_second(x: Tensor) -> Tensor:
    """(b, l, c) as (b, c, l).

    It is a view where the kernel takes channels innermost (a multiple of 8 of them), else a copy.
    """
    channels_innermost = (
        x.shape[-1] % 8 == 0 and x.stride(-1) == 1 and x.stride(1) % 8 == 0 and x.stride(0) % 8 == 0
    )
    return x.transpose(1, 2) if channels_innermost else x.transpose(1, 2).contiguous()


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _causal_conv_backward(dy, *ctx.saved_tensors)


causal_conv_silu.register_autograd(_differentiate, setup_context=_keep)
