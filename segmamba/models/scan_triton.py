"""The selective scan as Triton kernels, for a GPU without mamba-ssm. Importing this file needs triton; nothing else does.

The sequence is cut into chunks of TOKENS; a program, one warp, owns one chunk of CHANNELS channels, a lane per channel, and
loops over the states n. A tile (tokens, channels) so lies with all its tokens in one lane, and the recurrence along them is
serial register arithmetic, without a shuffle or a shared-memory access. Three launches make the forward:
  1. summary: the state that each chunk would leave if it began at zero, a sum of decayed inputs;
  2. carry:   the true state after every chunk, a scan over the chunks;
  3. output:  every chunk again, from its true first state.
The backward runs the same three on dh, recomputing the states. Every sum has a fixed order: results are deterministic.
Loads become fp32 at once; state, softplus and sums are fp32. (Gu & Dao 2023, section 3.3.2, recompute likewise.)

Legend: b batch, l tokens, c channels, n states, k chunks. x, raw delta, y (b, l, c); A (c, n); B, C (b, l, n); D, bias (c).
Chunk states are (b, k, n, c). All tensors are contiguous. LOG2E turns exp into the GPU's native exp2.
"""

import torch
import triton
import triton.language as tl

TOKENS = 16  # more of them would spill the backward's registers
CHANNELS = 32
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _compose(decay1, input1, decay2, input2):
    """h -> decay h + input, first 1, then 2."""
    return decay1 * decay2, decay2 * input1 + input2


@triton.jit
def _softplus(raw):
    """log(1 + e^raw), with Kahan's log1p: log(1 + e) alone loses the digits of a small e."""
    e = tl.exp(tl.minimum(raw, 20.0))
    w = 1.0 + e
    log1p = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(raw > 20.0, raw, log1p)


@triton.jit
def _tile(length, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, ahead: tl.constexpr):
    """Tokens t and channels c of this program, where they exist, and offsets into (b, l, c); `ahead` tokens later."""
    t = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS) + ahead
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (t < length)[:, None] & (c < channels)[None, :]
    batch = tl.program_id(2).to(tl.int64)
    return t, c, inside, (batch * length + t[:, None]) * channels + c[None, :]


@triton.jit
def _load(pointer, offsets, inside):
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_step(delta, bias, offsets, c, inside, channels):
    """softplus(delta + bias); 0, which changes no state, behind the last token."""
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    raw = _load(delta, offsets, inside) + shift[None, :]
    return tl.where(inside, _softplus(raw), 0.0), raw


@triton.jit
def summary_kernel(x, delta, A, B, bias, states, totals, length, channels, N: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """states[k]: what chunk k adds to the state behind it; totals[k] (b, k, c): the sum of its steps."""
    t, c, inside, offsets = _tile(length, channels, TOKENS, CHANNELS, 0)
    step, _ = _load_step(delta, bias, offsets, c, inside, channels)
    scaled = step * _load(x, offsets, inside)
    to_end = tl.cumsum(step, 0, reverse=True) - step  # summed from the end, where decays are near 1 and digits count
    chunk = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(totals + chunk * channels + c, tl.sum(step, 0), mask=c < channels)
    for n in range(N):
        A_n = tl.load(A + c * N + n, mask=c < channels, other=0.0) * LOG2E
        B_n = _load(B, (tl.program_id(2).to(tl.int64) * length + t) * N + n, t < length)
        tl.store(states + (chunk * N + n) * channels + c, tl.sum(tl.exp2(to_end * A_n[None, :]) * scaled * B_n[:, None], 0), mask=c < channels)


@triton.jit
def carry_kernel(states, totals, A, chunks, channels, N: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, BACKWARDS: tl.constexpr):
    """In place: states[k] += decay_k * states of the chunk before (behind, if BACKWARDS)."""
    n, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    A_n = tl.load(A + c * N + n, mask=c < channels, other=0.0) * LOG2E
    i = tl.arange(0, TOKENS)
    state = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, chunks, TOKENS):
        k = chunks - 1 - start - i if BACKWARDS else start + i
        inside = ((start + i) < chunks)[:, None] & (c < channels)[None, :]
        chunk = tl.program_id(2).to(tl.int64) * chunks + k[:, None]
        decay = tl.exp2(_load(totals, chunk * channels + c[None, :], inside) * A_n[None, :])
        added = _load(states, (chunk * N + n) * channels + c[None, :], inside)
        added = tl.where((i == 0)[:, None], decay * state[None, :] + added, added)
        _, carried = tl.associative_scan((decay, added), 0, _compose)
        tl.store(states + (chunk * N + n) * channels + c[None, :], carried, mask=inside)
        state = tl.sum(tl.where((i == TOKENS - 1)[:, None], carried, 0.0), 0)


@triton.jit
def output_kernel(x, delta, A, B, C, D, bias, states, y, length, channels, N: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    t, c, inside, offsets = _tile(length, channels, TOKENS, CHANNELS, 0)
    step, _ = _load_step(delta, bias, offsets, c, inside, channels)
    x_tile = _load(x, offsets, inside)
    scaled = step * x_tile
    batch, k = tl.program_id(2).to(tl.int64), tl.program_id(0)
    before = (batch * tl.num_programs(0) + k - 1) * N
    first = (tl.arange(0, TOKENS) == 0)[:, None]
    D_c = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    total = x_tile * D_c[None, :]
    for n in range(N):
        A_n = tl.load(A + c * N + n, mask=c < channels, other=0.0) * LOG2E
        B_n = _load(B, (batch * length + t) * N + n, t < length)
        C_n = _load(C, (batch * length + t) * N + n, t < length)
        entering = tl.load(states + (before + n) * channels + c, mask=(c < channels) & (k > 0), other=0.0)
        decay = tl.exp2(step * A_n[None, :])
        added = scaled * B_n[:, None]
        _, h = tl.associative_scan((decay, tl.where(first, decay * entering[None, :] + added, added)), 0, _compose)
        total += h * C_n[:, None]
    tl.store(y + offsets, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def summary_back_kernel(dy, delta, A, C, bias, dstates, totals, length, channels, N: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """dstates[k]: what chunk k's own outputs add to the gradient of the state in front of it; totals as above."""
    t, c, inside, offsets = _tile(length, channels, TOKENS, CHANNELS, 0)
    step, _ = _load_step(delta, bias, offsets, c, inside, channels)
    dy_tile = _load(dy, offsets, inside)
    from_start = tl.cumsum(step, 0)
    chunk = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(totals + chunk * channels + c, tl.sum(step, 0), mask=c < channels)
    for n in range(N):
        A_n = tl.load(A + c * N + n, mask=c < channels, other=0.0) * LOG2E
        C_n = _load(C, (tl.program_id(2).to(tl.int64) * length + t) * N + n, t < length)
        added = tl.sum(tl.exp2(from_start * A_n[None, :]) * dy_tile * C_n[:, None], 0)
        tl.store(dstates + (chunk * N + n) * channels + c, added, mask=c < channels)


@triton.jit
def gradient_kernel(
    dy, x, delta, A, B, C, D, bias, states, dstates, dx, ddelta, dB, dC,
    batches, length, channels, N: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx, d raw delta; dB and dC as (channel block, b, l, n), to be summed over the first; dA's parts, (b, k, n, c), over `dstates`.

    dA's part goes to the slot of dstates that this program alone reads: the chunk behind (for the last chunk slot 0, which nobody reads).
    """
    t, c, inside, offsets = _tile(length, channels, TOKENS, CHANNELS, 0)
    step, raw = _load_step(delta, bias, offsets, c, inside, channels)
    _, _, inside_next, offsets_next = _tile(length, channels, TOKENS, CHANNELS, 1)
    step_next, _ = _load_step(delta, bias, offsets_next, c, inside_next, channels)
    x_tile, dy_tile = _load(x, offsets, inside), _load(dy, offsets, inside)
    scaled = step * x_tile
    batch, k, chunks = tl.program_id(2).to(tl.int64), tl.program_id(0), tl.num_programs(0)
    before, behind = (batch * chunks + k - 1) * N, (batch * chunks + (k + 1) % chunks) * N
    i = tl.arange(0, TOKENS)[:, None]
    part = ((tl.program_id(1).to(tl.int64) * batches + batch) * length + t) * N
    dscaled, dstep = tl.zeros_like(step), tl.zeros_like(step)
    for n in range(N):
        A_n = tl.load(A + c * N + n, mask=c < channels, other=0.0)
        B_n = _load(B, (batch * length + t) * N + n, t < length)
        C_n = _load(C, (batch * length + t) * N + n, t < length)
        entering = tl.load(states + (before + n) * channels + c, mask=(c < channels) & (k > 0), other=0.0)
        leaving = tl.load(dstates + (behind + n) * channels + c, mask=(c < channels) & (k + 1 < chunks), other=0.0)
        decay = tl.exp2(step * (A_n * LOG2E)[None, :])
        added = scaled * B_n[:, None]
        _, h = tl.associative_scan((decay, tl.where(i == 0, decay * entering[None, :] + added, added)), 0, _compose)
        tl.store(dC + part + n, tl.sum(h * dy_tile, 1), mask=t < length)
        # dh_t = dy_t C_t + decay_{t+1} dh_{t+1}; what the chunk behind hands over has that chunk's first decay in it already
        own = dy_tile * C_n[:, None]
        decay_next = tl.exp2(step_next * (A_n * LOG2E)[None, :])
        _, dh = tl.associative_scan((decay_next, tl.where(i == TOKENS - 1, own + leaving[None, :], own)), 0, _compose, reverse=True)
        tl.store(dB + part + n, tl.sum(dh * scaled, 1), mask=t < length)
        dexponent = dh * (h - added)  # d loss / d (delta A) = dh_t * decay_t h_{t-1}
        dscaled += dh * B_n[:, None]
        dstep += dexponent * A_n[None, :]
        tl.store(dstates + (behind + n) * channels + c, tl.sum(dexponent * step, 0), mask=c < channels)
    D_c = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    tl.store(dx + offsets, (dscaled * step + dy_tile * D_c[None, :]).to(dx.dtype.element_ty), mask=inside)
    tl.store(ddelta + offsets, ((dstep + dscaled * x_tile) * tl.sigmoid(raw)).to(ddelta.dtype.element_ty), mask=inside)


def scan_forward(x, delta, A, B, C, D, bias):
    """y, and the state after every chunk, (b, k, n, c) fp32, which the backward starts from."""
    grid, sizes = _launch(x, A)
    states, totals = _chunk_buffers(x, A, grid)
    y = torch.empty_like(x)
    summary_kernel[grid](x, delta, A, B, bias, states, totals, *x.shape[1:], **sizes)
    _carry(states, totals, A, grid, sizes, backwards=False)
    output_kernel[grid](x, delta, A, B, C, D, bias, states, y, *x.shape[1:], **sizes)
    return y, states


def scan_backward(dy, x, delta, A, B, C, D, bias, states):
    """dx, d raw delta, dA, dB, dC, dD, d bias, each in the dtype of its input."""
    grid, sizes = _launch(x, A)
    dstates, totals = _chunk_buffers(x, A, grid)
    dx, ddelta = torch.empty_like(x), torch.empty_like(delta)
    dB, dC = (x.new_empty(grid[1], *B.shape, dtype=torch.float32) for _ in range(2))
    summary_back_kernel[grid](dy, delta, A, C, bias, dstates, totals, *x.shape[1:], **sizes)
    _carry(dstates, totals, A, grid, sizes, backwards=True)
    gradient_kernel[grid](dy, x, delta, A, B, C, D, bias, states, dstates, dx, ddelta, dB, dC, *x.shape, **sizes)
    dA = dstates.sum((0, 1)).t().contiguous().to(A.dtype)
    dD = (dy.float() * x.float()).sum((0, 1)).to(D.dtype)
    return dx, ddelta, dA, dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype), dD, ddelta.sum((0, 1), dtype=torch.float32).to(bias.dtype)


def states_shape(x, A):
    return x.shape[0], triton.cdiv(x.shape[1], TOKENS), A.shape[1], A.shape[0]


def _launch(x, A):
    batch, length, channels = x.shape
    grid = (triton.cdiv(length, TOKENS), triton.cdiv(channels, CHANNELS), batch)
    return grid, {"N": A.shape[1], "TOKENS": TOKENS, "CHANNELS": CHANNELS, "num_warps": 1}


def _chunk_buffers(x, A, grid):
    """Uninitialised chunk states (b, k, n, c) and step sums (b, k, c)."""
    batch, _, channels = x.shape
    states = torch.empty(states_shape(x, A), dtype=torch.float32, device=x.device)
    return states, torch.empty(batch, grid[0], channels, dtype=torch.float32, device=x.device)


def _carry(states, totals, A, grid, sizes, *, backwards):
    carry_kernel[(A.shape[1], grid[1], grid[2])](states, totals, A, grid[0], A.shape[0], **sizes, BACKWARDS=backwards)
