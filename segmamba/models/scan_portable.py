"""The selective scan in plain PyTorch: exact, chunked, with a hand-written backward. Runs wherever torch does.

The recurrence h_t = a_t h_{t-1} + u_t is cut into chunks of T tokens, and the k-th tokens of all chunks advance together:
  1. every chunk runs from a zero state, which gives its last local state;
  2. a short loop over the chunks carries the true states from chunk to chunk, by the chunks' total decay exp(A sum delta);
  3. every chunk runs again from its true first state.
Decays are only ever multiplied, never divided, so a large delta * A underflows to the zero that it means.
Segments of SEGMENT_ELEMENTS bound the memory: no tensor with a state axis spans the whole sequence. The backward keeps
the state at the segments' borders and recomputes the rest (Gu & Dao 2023, section 3.3.2, do so on the GPU).

Legend: b batch, l tokens, c channels, n states; a segment's tensors are (t, b, k, n, c): t token in its chunk, k chunk.
Channels are innermost: every operation then runs over whole vectors, and channels-last volumes arrive without a copy.
"""

import torch
import torch.nn.functional as F

CHUNK_TOKENS = 32
SEGMENT_ELEMENTS = (
    2**18
)  # b * l * n * c of one segment: 1 MiB of fp32. The backward holds five such tensors, as many as caches like


def scan_forward(x, delta, A, B, C, D, bias):
    """y in the dtype of x, and the states (segment, b, n, c) in front of every segment, which the backward starts from.

    Computes in the dtype of A: fp32, or float64 for tests.
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


def scan_backward(dy, x, delta, A, B, C, D, bias, borders):
    """dx, d raw delta, dA, dB, dC, dD, d bias, each in the dtype of its input."""
    dtypes, (dy, x, delta, B, C) = (
        [t.dtype for t in (x, delta, A, B, C, D, bias)],
        (t.to(A.dtype) for t in (dy, x, delta, B, C)),
    )
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
    return tuple(gradient.to(dtype) for gradient, dtype in zip(gradients, dtypes, strict=True))


def states_shape(x, A):
    return len(_segments(x, A)), x.shape[0], A.shape[1], A.shape[0]


def _segments(x, A):
    """Slices of tokens, each a whole number of chunks long, except the last."""
    batch, length, _ = x.shape
    tokens = max(SEGMENT_ELEMENTS // (batch * A.numel()) // CHUNK_TOKENS, 2) * CHUNK_TOKENS
    return [slice(start, min(start + tokens, length)) for start in range(0, length, tokens)]


def _chunk_length(tokens):
    """T near sqrt(tokens), so that the loops over tokens of a chunk and over chunks are both short."""
    return min(CHUNK_TOKENS, max(int(tokens**0.5), 1))


def _chunks(tensor, length):
    """(b, l, f) -> (t, b, k, f); missing tokens at the end are zeros."""
    batch, tokens, features = tensor.shape
    missing = -tokens % length
    tensor = F.pad(tensor, (0, 0, 0, missing)) if missing else tensor
    return tensor.reshape(batch, -1, length, features).permute(2, 0, 1, 3).contiguous()


def _tokens(tensor, span):
    """(t, b, k, f, 1) or (t, b, k, 1, f) -> (b, l, f)."""
    length, batch, chunks = tensor.shape[:3]
    tensor = tensor.reshape(length, batch, chunks, -1).permute(1, 2, 0, 3)
    return tensor.reshape(batch, length * chunks, -1)[:, : span.stop - span.start]


def _terms(x, step, At, B):
    """Of one segment: decay a, input u (both (t, b, k, n, c)), decay of whole chunks (b, k, n, c) and delta * x (t, b, k, c).

    A token that pads the last chunk has step 0: decay 1 and input 0, which leaves the state alone.
    """
    length = _chunk_length(x.shape[1])
    step_chunks = _chunks(step, length)
    scaled = _chunks(step * x, length)
    decay = (step_chunks.unsqueeze(-2) * At).exp_()
    u = scaled.unsqueeze(-2) * _chunks(B, length).unsqueeze(-1)
    return decay, u, (step_chunks.sum(0).unsqueeze(-2) * At).exp_(), scaled


def _run(decay, u, chunk_decay, state):
    """All states (t, b, k, n, c), written over u, and the one after the last token (b, n, c), from the `state` before the first."""
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


def _run_back(decay, dstates, chunk_decay, carry):
    """dh_t = dy_t C_t + a_{t+1} dh_{t+1}, written over `dstates`, from the `carry` a dh that enters behind the last token; the next carry.

    The carry that leaves a chunk is a_t dh_t of its first token.
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


def _first_states(states, border):
    """The state before each chunk's first token, (b, k, n, c)."""
    return torch.cat([border.unsqueeze(1), states[-1, :, :-1]], dim=1)
