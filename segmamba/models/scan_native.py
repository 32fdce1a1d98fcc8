"""The selective scan by the kernels of cpu_kernels/, for a CPU with a C compiler.

Neighbouring channels lie in the lanes of a vector register, and one pass over the tokens carries
the states of all. Every SEGMENT tokens the states are kept; the backward computes those between
again, segment by segment from the last to the first.

What the kernels do not take, other dtypes of x and A and numbers of channels, `scan_portable`
computes. The other inputs are brought to fp32.

Legend: b batch, l tokens, c channels, n states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models import scan_portable
from segmamba.models.cpu_library import constant, in_parts, run
from segmamba.models.scan_types import Gradients


def scan_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recurrence; as `scan_portable.scan_forward`.

    Args:
        x: (b, l, c).
        delta: Raw step sizes (b, l, c).
        A: (c, n), negative.
        B: (b, l, n).
        C: (b, l, n).
        D: (c).
        bias: (c).

    Returns:
        y (b, l, c) in the dtype of x, and the states (b, segment, n, c) in front of every segment.
    """
    if not _fits(x, A):
        return scan_portable.scan_forward(x, delta, A, B, C, D, bias)
    step, At = F.softplus(delta + bias).float(), A.t().contiguous()
    B, C, D = (t.float() for t in (B, C, D))
    y, borders = torch.empty_like(x), x.new_empty(states_shape(x, A))
    (batch, tokens, channels), states = x.shape, A.shape[1]
    arguments = (x, step, At, B, C, D, y, borders, tokens, channels, states)
    in_parts(
        batch * channels // constant("lanes"),
        lambda first, last: run("scan_forward", arguments, first, last),
    )
    return y, borders


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
    """Differentiate the recurrence; as `scan_portable.scan_backward`.

    Args:
        dy: (b, l, c), the gradient of y.
        x: The forward's inputs, up to `bias`.
        delta: See x.
        A: See x.
        B: See x.
        C: See x.
        D: See x.
        bias: See x.
        states: As `scan_forward` returned them.

    Returns:
        dx, d raw delta, dA, dB, dC, dD, d bias.
    """
    if not _fits(x, A):
        return scan_portable.scan_backward(dy, x, delta, A, B, C, D, bias, states)
    dtypes = [t.dtype for t in (x, delta, A, B, C, D, bias)]
    raw, At = (delta + bias).float(), A.t().contiguous()
    step = F.softplus(raw)
    dy, B, C, D = (t.float() for t in (dy, B, C, D))
    dx, dstep, dB, dC = (torch.empty_like(t) for t in (x, raw, B, C))
    (batch, tokens, channels), n = x.shape, A.shape[1]
    dAt, dD = x.new_empty(batch, n, channels), x.new_empty(batch, channels)
    inputs, gradients = (dy, x, step, At, B, C, D, states), (dx, dstep, dAt, dB, dC, dD)
    scratch_size = 4 * constant("segment_tokens") * n * constant("lanes") + n * channels

    def work(first: int, last: int) -> None:
        scratch = x.new_empty(scratch_size)
        arguments = (*inputs, *gradients, scratch, tokens, channels, n)
        run("scan_backward", arguments, first, last)

    in_parts(batch, work)
    ddelta = dstep.mul_(torch.sigmoid(raw))
    gradients_of = dx, ddelta, dAt.sum(0).t(), dB, dC, dD.sum(0), ddelta.sum((0, 1))
    dx, ddelta, dA, dB, dC, dD, dbias = (
        gradient.to(dtype) for gradient, dtype in zip(gradients_of, dtypes, strict=True)
    )
    return dx, ddelta, dA, dB, dC, dD, dbias


def states_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    """(b, segment, n, c), or those of `scan_portable`."""
    if not _fits(x, A):
        return scan_portable.states_shape(x, A)
    return x.shape[0], -(-x.shape[1] // constant("segment_tokens")), A.shape[1], A.shape[0]


def _fits(x: Tensor, A: Tensor) -> bool:
    """Whether the kernels take these inputs."""
    lanes = constant("lanes")
    return (
        lanes > 0
        and x.dtype == A.dtype == torch.float32
        and A.shape[0] % lanes == 0
        and A.shape[1] <= constant("most_states")
    )
