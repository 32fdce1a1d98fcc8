"""The selective scan in plain PyTorch: exact, chunked, with a hand-written backward.

It runs wherever torch does. The recurrence h_t = a_t h_{t-1} + u_t is cut into chunks of T tokens,
and the k-th tokens of all chunks advance together:
  1. every chunk runs from a zero state, which gives its last local state;
  2. a short loop over the chunks carries the true states from chunk to chunk, by the chunks' total
     decay exp(A sum delta);
  3. every chunk runs again from its true first state.
Decays are only ever multiplied, never divided, so a large delta * A underflows to the zero that it
means. Segments of SEGMENT_ELEMENTS bound the memory: no tensor with a state axis spans the whole
sequence. The backward keeps the state at the segments' borders and recomputes the rest (Gu & Dao
2023, section 3.3.2, do so on the GPU).

Channels are innermost: every operation then runs over whole vectors, and channels-last volumes
arrive without a copy.

Legend: b batch, l tokens, c channels, n states; a segment's tensors are (t, b, k, n, c): t token in
its chunk, k chunk. `At` is A transposed, (n, c).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models.scan_types import Gradients

CHUNK_TOKENS = 32
SEGMENT_ELEMENTS = 2**18
"""b * l * n * c of one segment: 1 MiB of fp32. The backward holds five such tensors, as many as
caches like."""


def scan_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in the dtype of A: fp32, or float64 for tests.

    Args:
        x: (b, l, c).
        delta: Raw step sizes (b, l, c).
        A: (c, n), negative.
        B: (b, l, n).
        C: (b, l, n).
        D: (c).
        bias: (c).

    Returns:
        y (b, l, c) in the dtype of x, and the states (segment, b, n, c) in front of every segment,
        from which the backward starts.
    """
    y_dtype, (x, delta, B, C) = x.dtype, (t.to(A.dtype) for t in (x, delta, B, C))
    state = x.new_zeros(x.shape[0], A.shape[1], A.shape[0])
    y, borders, At = torch.empty_like(x), [], A.t().contiguous()
    for span in _segments(x, A):
        borders.append(state)
        step = F.softplus(delta[:, span] + bias)
        decay, u, chunk_decay, _ = _terms(x[:, span], step, At, B[:, span])
        states, state = _run(decay, u, chunk_decay, state)
        y[:, span] = _tokens(_chunks(C[:, span], len(states)).unsqueeze(-2) @ states, span)
    return y.addcmul_(x, D).to(y_dtype), torch.stack(borders)


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
    """Differentiate the recurrence, segment by segment from the last to the first.

    Args:
        dy: (b, l, c), the gradient of y.
        x: The forward's inputs, up to `bias`.
        delta: See x.
        A: See x.
        B: See x.
        C: See x.
        D: See x.
        bias: See x.
        states: (segment, b, n, c), as `scan_forward` returned them.

    Returns:
        dx, d raw delta, dA, dB, dC, dD, d bias, each in the dtype of its input.
    """
    dtypes, borders = [t.dtype for t in (x, delta, A, B, C, D, bias)], states
    dy, x, delta, B, C = (t.to(A.dtype) for t in (dy, x, delta, B, C))
    At = A.t().contiguous()
    dx, ddelta, dB, dC = (torch.empty_like(t) for t in (x, delta, B, C))
    dAt, carry = torch.zeros_like(At), torch.zeros_like(borders[0])
    for span, border in reversed(list(zip(_segments(x, A), borders, strict=True))):
        raw = delta[:, span] + bias
        step = F.softplus(raw)
        decay, u, chunk_decay, scaled = _terms(x[:, span], step, At, B[:, span])
        states, _ = _run(decay, u, chunk_decay, border)
        dy_chunks, step_chunks, B_chunks, C_chunks = (
            _chunks(t, len(states)) for t in (dy[:, span], step, B[:, span], C[:, span])
        )
        dC[:, span] = _tokens(states @ dy_chunks.unsqueeze(-1), span)
        dstates = C_chunks.unsqueeze(-1) * dy_chunks.unsqueeze(-2)
        carry = _run_back(decay, dstates, chunk_decay, carry)
        dB[:, span] = _tokens(dstates @ scaled.unsqueeze(-1), span)
        dscaled = _tokens(B_chunks.unsqueeze(-2) @ dstates, span)
        dx[:, span] = dscaled * step
        # d loss / d (delta A) = dh_t * h_{t-1} * a_t
        dexponent = dstates.mul_(decay)
        dexponent[1:].mul_(states[:-1])
        dexponent[0].mul_(_first_states(states, border))
        dAt += torch.mul(dexponent, step_chunks.unsqueeze(-2), out=decay).sum((0, 1, 2))
        dstep = _tokens(dexponent.mul_(At).sum(-2, keepdim=True), span)
        ddelta[:, span] = dstep.addcmul_(dscaled, x[:, span]).mul_(torch.sigmoid(raw))
    dD = torch.einsum("blc,blc->c", dy, x)
    gradients = dx.addcmul_(dy, D), ddelta, dAt.t(), dB, dC, dD, ddelta.sum((0, 1))
    dx, ddelta, dA, dB, dC, dD, dbias = (
        gradient.to(dtype) for gradient, dtype in zip(gradients, dtypes, strict=True)
    )
    return dx, ddelta, dA, dB, dC, dD, dbias


def states_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    """(segment, b, n, c)."""
    return len(_segments(x, A)), x.shape[0], A.shape[1], A.shape[0]


def _segments(x: Tensor, A: Tensor) -> list[slice]:
    """Slices of tokens, each a whole number of chunks long, except the last."""
    batch, length, _ = x.shape
    tokens = max(SEGMENT_ELEMENTS // (batch * A.numel()) // CHUNK_TOKENS, 2) * CHUNK_TOKENS
    return [slice(start, min(start + tokens, length)) for start in range(0, length, tokens)]


def _chunk_length(tokens: int) -> int:
    """T near sqrt(tokens): the loops over a chunk's tokens and over chunks are both short."""
    return min(CHUNK_TOKENS, max(int(tokens**0.5), 1))


def _chunks(tensor: Tensor, length: int) -> Tensor:
    """(b, l, f) -> (t, b, k, f); missing tokens at the end are zeros."""
    batch, tokens, features = tensor.shape
    missing = -tokens % length
    tensor = F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
    return tensor.reshape(batch, -1, length, features).permute(2, 0, 1, 3).contiguous()


def _tokens(tensor: Tensor, span: slice) -> Tensor:
    """(t, b, k, f, 1) or (t, b, k, 1, f) -> (b, l, f)."""
    length, batch, chunks = tensor.shape[:3]
    tensor = tensor.reshape(length, batch, chunks, -1).permute(1, 2, 0, 3)
    return tensor.reshape(batch, length * chunks, -1)[:, : span.stop - span.start]


def _terms(x: Tensor, step: Tensor, At: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The terms of one segment's recurrence.

    They are the decay a and the input u, both (t, b, k, n, c), the decay of whole chunks
    (b, k, n, c), and delta * x (t, b, k, c).

    A token that pads the last chunk has step 0: decay 1 and input 0, which leaves the state alone.
    """
    length = _chunk_length(x.shape[1])
    step_chunks = _chunks(step, length)
    scaled = _chunks(step * x, length)
    decay = (step_chunks.unsqueeze(-2) * At).exp_()
    u = scaled.unsqueeze(-2) * _chunks(B, length).unsqueeze(-1)
    return decay, u, (step_chunks.sum(0).unsqueeze(-2) * At).exp_(), scaled


def _run(decay: Tensor, u: Tensor, chunk_decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run a segment from the `state` (b, n, c) before its first token.

    The result is all states (t, b, k, n, c), written over u, and the one after the last token.
    """
    local = u[0].clone()
    for t in range(1, len(u)):
        torch.addcmul(u[t], decay[t], local, out=local)
    first = torch.empty_like(local)
    for k in range(local.shape[1]):
        first[:, k] = state
        state = torch.addcmul(local[:, k], chunk_decay[:, k], state)
    for t in range(len(u)):
        first = u[t].addcmul_(decay[t], first)
    return u, state


def _run_back(decay: Tensor, dstates: Tensor, chunk_decay: Tensor, carry: Tensor) -> Tensor:
    """Run dh_t = dy_t C_t + a_{t+1} dh_{t+1} over a segment, written over `dstates`.

    `carry` is the a dh that enters behind the last token. The result is the carry of the segment
    before: what leaves a chunk is a_t dh_t of its first token.
    """
    local = decay[-1] * dstates[-1]
    for t in range(len(dstates) - 2, -1, -1):
        local.add_(dstates[t]).mul_(decay[t])
    last = torch.empty_like(local)
    for k in range(local.shape[1] - 1, -1, -1):
        last[:, k] = carry
        carry = torch.addcmul(local[:, k], chunk_decay[:, k], carry)
    dstates[-1].add_(last)
    for t in range(len(dstates) - 2, -1, -1):
        dstates[t].addcmul_(decay[t + 1], dstates[t + 1])
    return carry


def _first_states(states: Tensor, border: Tensor) -> Tensor:
    """The state before each chunk's first token, (b, k, n, c)."""
    return torch.cat([border.unsqueeze(1), states[-1, :, :-1]], dim=1)
