"""The selective scan while a network is exported: one operator, and what replaces it.

A graph that is traced for a file of another runtime holds the operator `segmamba::exported_scan`
and nothing of our kernels. A writer of ONNX files puts a loop in its place; for files that torch
itself runs, `expanded` puts plain operators there.

Legend: b batch, l tokens, c channels, n states, k chunks, t a token of a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models import scan_portable

CHUNK_TOKENS = 16
"""Tokens of a chunk in `expanded`, whose loop over them is unrolled."""


@torch.library.custom_op("segmamba::exported_scan", mutates_args=())
def exported_scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """The selective scan as `segmamba.models.scan.selective_scan` defines it, without gradients.

    Args:
        x: (b, l, c).
        delta: Raw step sizes (b, l, c).
        A: (c, n), negative.
        B: (b, l, n).
        C: (b, l, n).
        D: (c).
        bias: (c).

    Returns:
        y (b, l, c).
    """
    inputs = (t.contiguous() for t in (x, delta, A, B, C, D, bias))
    return scan_portable.scan_forward(*inputs)[0].contiguous()


@exported_scan.register_fake
def _(x: Tensor, *_: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def expanded(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """`exported_scan` in plain operators, for any number of tokens.

    The t-th tokens of all chunks advance together, from a zero state. What the chunks hand on is a
    scan of the same form over chunks, and over chunks of chunks, until one is left.

    Args:
        x: (b, l, c).
        delta: See x.
        A: (c, n).
        B: (b, l, n).
        C: See B.
        D: (c).
        bias: (c).

    Returns:
        y (b, l, c).
    """
    step = F.softplus(delta + bias)
    At = A.t()
    exponent = step.unsqueeze(2) * At  # (b, l, n, c)
    u = (step * x).unsqueeze(2) * B.unsqueeze(3)
    states = _states(exponent, u)
    return (C.unsqueeze(2) @ states).squeeze(2) + x * D


def _states(exponent: Tensor, u: Tensor) -> Tensor:
    """h_i = exp(exponent_i) h_{i-1} + u_i along axis 1, from zero; all are (b, l, n, c)."""
    length = u.shape[1]
    exponent, u = (_chunks(t) for t in (exponent, u))  # (b, k, t, n, c)
    local = [u[:, :, 0]]
    for t in range(1, CHUNK_TOKENS):
        local.append(exponent[:, :, t].exp() * local[-1] + u[:, :, t])
    states = torch.stack(local, 2)
    if u.shape[1] > 1:
        total = exponent.cumsum(2)
        after = _states(total[:, :, -1], states[:, :, -1])
        before = F.pad(after[:, :-1], (0, 0, 0, 0, 1, 0))
        states = states + total.exp() * before.unsqueeze(2)
    return states.flatten(1, 2)[:, :length]


def _chunks(tensor: Tensor) -> Tensor:
    """(b, l, n, c) -> (b, k, t, n, c); missing tokens at the end are zeros."""
    missing = -tensor.shape[1] % CHUNK_TOKENS
    return F.pad(tensor, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, CHUNK_TOKENS))
