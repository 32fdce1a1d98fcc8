"""Mamba-2's scan as products of matrices (Dao & Gu 2024, "state-space duality", section 6).

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t
    y_t = C_t h_t + D x_t                                   (h_0 = 0)

It is the selective scan with one decay A for all channels and states of a head. Within a chunk of
tokens it is then a product with a lower triangular matrix, whose entries are C_t B_s and the decay
from s to t; what chunks hand on to each other is a scan of the same form over chunks, and over
chunks of chunks. Decays are exponentials of sums that are never positive: nothing overflows.

Steps, decays and what is handed on have the dtype of A, fp32 inside autocast too. The factors of
the products are bf16 where x is; fp16 inputs are multiplied in the dtype of A, whose range they
lack.

Legend: b batch, l tokens, h heads, p channels of a head, n states (N), k chunks, t and s tokens of
a chunk.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models.scan import sequential_scan, without_autocast

CHUNK_TOKENS = 64
"""Tokens of a chunk: as many as a head has channels, where the products cost least."""
GROUP_CHUNKS = 16
"""Chunks that hand on their states by one product; groups of them do so in turn."""
LEAST_EXPONENT = -60.0
"""exp of it is nothing beside 1 in float64 too. Exponents are held above it, so that sums over a
chunk keep their digits."""


def dual_scan(
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

    Args:
        x: (b, l, h, p).
        delta: Raw step sizes (b, l, h), before bias and softplus.
        A: (h), negative.
        B: (b, l, n), of all heads.
        C: (b, l, n), of all heads.
        D: (h).
        bias: (h), added to `delta`.
        implementation: `model.scan`: "sequential" runs token by token, which is slow and exact;
            else chunks are multiplied.

    Returns:
        y (b, l, h, p) in the dtype of x.
    """
    with without_autocast(x):
        if implementation == "sequential":
            return _token_by_token(x, delta, A, B, C, D, bias)
        return _by_chunks(x, delta, A, B, C, D, bias)


def _token_by_token(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """The selective scan in which all channels of a head have its A, D, step and bias."""
    width, states = x.shape[-1], B.shape[-1]
    delta, A, D, bias = (t.repeat_interleave(width, -1) for t in (delta, A, D, bias))
    y = sequential_scan(x.flatten(2), delta, A[:, None].expand(-1, states), B, C, D, bias)
    return y.unflatten(-1, (-1, width))


def _by_chunks(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    tokens, exact = x.shape[1], A.dtype
    factors = torch.bfloat16 if x.dtype == torch.bfloat16 else exact
    # a token that pads the last chunk has step 0: decay 1, input 0
    step = _chunks(F.softplus(delta.to(exact) + bias)).movedim(3, 2)  # (b, k, h, t)
    u = _chunks(x.to(factors)).movedim(3, 2)  # (b, k, h, t, p)
    Bs, Cs = (_chunks(t.to(factors)).unsqueeze(2) for t in (B, C))  # (b, k, 1, t, n), of all heads
    total = (step * A[:, None]).clamp_min(LEAST_EXPONENT).cumsum(-1)
    weights = _decay(total) * step.unsqueeze(-2)  # (b, k, h, t, s)
    y = ((Cs @ Bs.transpose(-1, -2)) * weights.to(factors)) @ u
    if total.shape[1] > 1:
        to_the_end = (total[..., -1:] - total).exp() * step
        left = Bs.transpose(-1, -2) @ (u * to_the_end.unsqueeze(-1).to(factors))
        states = _handed_on(left.to(exact), total[..., -1])  # (b, k, h, n, p), before each chunk
        y = y + (Cs @ states.to(factors)) * total.exp().unsqueeze(-1)
    y = y.movedim(2, 3).flatten(1, 2)[:, :tokens]
    return (y + D[:, None] * x).to(x.dtype)


def _chunks(tensor: Tensor) -> Tensor:
    """(b, l, ...) -> (b, k, t, ...); missing tokens at the end are zeros."""
    length = min(CHUNK_TOKENS, tensor.shape[1])
    missing = -tensor.shape[1] % length
    if missing:
        tensor = F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing))
    return tensor.unflatten(1, (-1, length))


def _decay(total: Tensor) -> Tensor:
    """exp(total_t - total_s) for s up to t, else 0: (..., t) -> (..., t, s)."""
    length = total.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=total.device).triu(1)
    exponents = total.unsqueeze(-1) - total.unsqueeze(-2)
    return exponents.masked_fill(later, float("-inf")).exp()


def _handed_on(left: Tensor, exponents: Tensor) -> Tensor:
    """The states before each chunk, from what each leaves behind.

    Args:
        left: (b, k, h, n, p): the state after a chunk that begins with zero.
        exponents: (b, k, h): the logarithm of a chunk's decay, above LEAST_EXPONENT times its
            length.

    Returns:
        (b, k, h, n, p).
    """
    _batch, chunks, _heads, states, width = left.shape
    group = min(GROUP_CHUNKS, chunks)
    missing = -chunks % group
    left = F.pad(left, (0, 0, 0, 0, 0, 0, 0, missing)).unflatten(1, (-1, group))
    exponents = F.pad(exponents.clamp_min(LEAST_EXPONENT), (0, 0, 0, missing))
    total = exponents.unflatten(1, (-1, group)).movedim(3, 2).cumsum(-1)  # (b, g, h, c)
    flat = left.movedim(3, 2).flatten(4)  # (b, g, h, c, n * p)
    after = _decay(total) @ flat  # the states after each chunk, of groups that begin with zero
    before = F.pad(after[..., :-1, :], (0, 0, 1, 0))
    if after.shape[1] > 1:
        last = after[..., -1, :].unflatten(-1, (states, width))
        carried = _handed_on(last, total[..., -1]).flatten(3).unsqueeze(3)
        so_far = F.pad(total[..., :-1], (1, 0)).exp().unsqueeze(-1)
        before = before + so_far * carried
    before = before.unflatten(-1, (states, width)).movedim(2, 3)
    return before.flatten(1, 2)[:, :chunks]
