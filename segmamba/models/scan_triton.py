"""The selective scan as Triton kernels, for a GPU without mamba-ssm. Importing this file needs triton; nothing else does.

The sequence is cut into chunks of TOKENS. A program, one warp, owns one chunk of CHANNELS channels, a lane per channel, and loops
over the states n with the chunk's tokens unrolled: the recurrence along the tokens is register arithmetic, and only the sums over
channels, in dB and dC, cross lanes. Three launches make the forward:
  1. summary: the state that each chunk would leave if it began at zero;
  2. carry:   the true state after every chunk, a recurrence over the chunks;
  3. output:  every chunk again, from its true first state.
The backward runs the same three on dh, recomputing the states (as Gu & Dao 2023, section 3.3.2, do). Every sum has a fixed order:
results are deterministic. Whatever the tensors' dtype, registers hold fp32.

Legend: b batch, l tokens, c channels, n states, k chunks. x, raw delta, y (b, l, c); A (c, n); B, C (b, l, n); D, bias (c).
Chunk states are (b, k, n, c). All tensors are contiguous. LOG2E turns exp into the GPU's native exp2.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

TOKENS, CHANNELS = (
    16,
    32,
)  # of a program; 32 is the lanes of a warp, and _store_sums is written for 16 x 32
LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _rows(
    pointer, start, pitch, first, count, c, channels, TOKENS: tl.constexpr, BACKWARDS: tl.constexpr
):
    """TOKENS vectors over the channels c, fp32: rows first, first + 1 ... (or first - 1 ...) of `count`, zero where there is none."""
    rows = ()
    for i in tl.static_range(TOKENS):
        row = first - i if BACKWARDS else first + i
        inside = (c < channels) & (row >= 0) & (row < count)
        rows = rows + (
            tl.load(pointer + start + row * pitch + c, mask=inside, other=0.0).to(tl.float32),
        )
    return rows


@triton.jit
def _store_rows(
    values,
    pointer,
    start,
    pitch,
    first,
    count,
    c,
    channels,
    TOKENS: tl.constexpr,
    BACKWARDS: tl.constexpr,
):
    for i in tl.static_range(TOKENS):
        row = first - i if BACKWARDS else first + i
        inside = (c < channels) & (row >= 0) & (row < count)
        tl.store(
            pointer + start + row * pitch + c, values[i].to(pointer.dtype.element_ty), mask=inside
        )


@triton.jit
def _softplus(raw):
    """log(1 + e^raw), with Kahan's log1p: log(1 + e) alone loses the digits of a small e."""
    e = tl.exp(tl.minimum(raw, 20.0))
    w = 1.0 + e
    log1p = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(raw > 20.0, raw, log1p)


@triton.jit
def _place(length, channels, TOKENS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's first token, its channels, where its sample starts in (b, l, c) and its chunk in (b, k)."""
    batch = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return (
        tl.program_id(0) * TOKENS,
        c,
        batch * length * channels,
        batch * tl.num_programs(0) + tl.program_id(0),
    )


@triton.jit
def _steps(delta, bias, start, first, length, c, channels, TOKENS: tl.constexpr):
    """softplus(delta + bias) of every token; 0, which changes no state, behind the last."""
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    raw = _rows(delta, start, channels, first, length, c, channels, TOKENS, False)
    steps = ()
    for i in tl.static_range(TOKENS):
        steps = steps + (tl.where(first + i < length, _softplus(raw[i] + shift), 0.0),)
    return steps


@triton.jit
def _rate(A, n, c, channels, N: tl.constexpr):
    """A of state n, for exp2; 0 behind the last state, so that a loop may load one state ahead of its use."""
    return tl.load(A + c * N + n, mask=(c < channels) & (n < N), other=0.0).to(tl.float32) * LOG2E


@triton.jit
def _mixing(B, n, N: tl.constexpr, TOKENS: tl.constexpr):
    """B or C of state n: a number for every token. B and C are padded to whole chunks, so that no load needs a mask."""
    at = ((tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * TOKENS) * N + n
    values = ()
    for i in tl.static_range(TOKENS):
        values = values + (tl.load(B + at + i * N).to(tl.float32),)
    return values


@triton.jit
def _chunk_state(states, chunk, n, c, exists, channels, N: tl.constexpr):
    return tl.load(
        states + (chunk * N + n) * channels + c, mask=(c < channels) & exists & (n < N), other=0.0
    )


@triton.jit
def summary_kernel(
    x,
    delta,
    A,
    B,
    bias,
    states,
    totals,
    length,
    channels,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """states[k]: what chunk k adds to the state behind it; totals[k] (b, k, c): the sum of its steps."""
    first, c, start, chunk = _place(length, channels, TOKENS, CHANNELS)
    steps = _steps(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = _rows(x, start, channels, first, length, c, channels, TOKENS, False)
    total, scaled = tl.zeros((CHANNELS,), tl.float32), ()
    for i in tl.static_range(TOKENS):
        total += steps[i]
        scaled = scaled + (steps[i] * x_rows[i],)
    tl.store(totals + chunk * channels + c, total, mask=c < channels)
    for n in range(N):
        A_n, B_n = _rate(A, n, c, channels, N), _mixing(B, n, N, TOKENS)
        state = tl.zeros((CHANNELS,), tl.float32)
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + scaled[i] * B_n[i]
        tl.store(states + (chunk * N + n) * channels + c, state, mask=c < channels)


@triton.jit
def carry_kernel(
    states,
    totals,
    A,
    chunks,
    channels,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BACKWARDS: tl.constexpr,
):
    """In place: states[k] += decay_k * states of the chunk before (behind, if BACKWARDS)."""
    n, c = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    at_totals = tl.program_id(2).to(tl.int64) * chunks * channels
    at_states, pitch = at_totals * N + n * channels, N * channels
    A_n = _rate(A, n, c, channels, N)
    state = tl.zeros((CHANNELS,), tl.float32)
    begin = chunks - 1 if BACKWARDS else 0
    next_totals = _rows(totals, at_totals, channels, begin, chunks, c, channels, TOKENS, BACKWARDS)
    next_added = _rows(states, at_states, pitch, begin, chunks, c, channels, TOKENS, BACKWARDS)
    for done in range(0, chunks, TOKENS):
        first = begin - done if BACKWARDS else done
        behind = first - TOKENS if BACKWARDS else first + TOKENS
        row_totals, added, carried = next_totals, next_added, ()
        next_totals = _rows(
            totals, at_totals, channels, behind, chunks, c, channels, TOKENS, BACKWARDS
        )
        next_added = _rows(states, at_states, pitch, behind, chunks, c, channels, TOKENS, BACKWARDS)
        for i in tl.static_range(TOKENS):
            state = tl.exp2(row_totals[i] * A_n) * state + added[i]
            carried = carried + (state,)
        _store_rows(
            carried, states, at_states, pitch, first, chunks, c, channels, TOKENS, BACKWARDS
        )


@triton.jit
def output_kernel(
    x,
    delta,
    A,
    B,
    C,
    D,
    bias,
    states,
    y,
    length,
    channels,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    first, c, start, chunk = _place(length, channels, TOKENS, CHANNELS)
    steps = _steps(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = _rows(x, start, channels, first, length, c, channels, TOKENS, False)
    skip = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    scaled, y_rows = (), ()
    for i in tl.static_range(TOKENS):
        scaled, y_rows = scaled + (steps[i] * x_rows[i],), y_rows + (skip * x_rows[i],)
    later = tl.program_id(0) > 0
    next_A, next_state = (
        _rate(A, 0, c, channels, N),
        _chunk_state(states, chunk - 1, 0, c, later, channels, N),
    )
    for n in range(N):
        A_n, state, sums = next_A, next_state, ()
        next_A, next_state = (
            _rate(A, n + 1, c, channels, N),
            _chunk_state(states, chunk - 1, n + 1, c, later, channels, N),
        )
        B_n, C_n = _mixing(B, n, N, TOKENS), _mixing(C, n, N, TOKENS)
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + scaled[i] * B_n[i]
            sums = sums + (y_rows[i] + state * C_n[i],)
        y_rows = sums
    _store_rows(y_rows, y, start, channels, first, length, c, channels, TOKENS, False)


@triton.jit
def summary_back_kernel(
    dy,
    delta,
    A,
    C,
    bias,
    dstates,
    totals,
    length,
    channels,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dstates[k]: what chunk k's own outputs add to the gradient of the state in front of it; totals as above."""
    first, c, start, chunk = _place(length, channels, TOKENS, CHANNELS)
    steps = _steps(delta, bias, start, first, length, c, channels, TOKENS)
    dy_rows = _rows(dy, start, channels, first, length, c, channels, TOKENS, False)
    total = tl.zeros((CHANNELS,), tl.float32)
    for i in tl.static_range(TOKENS):
        total += steps[i]
    tl.store(totals + chunk * channels + c, total, mask=c < channels)
    for n in range(N):
        A_n, C_n = _rate(A, n, c, channels, N), _mixing(C, n, N, TOKENS)
        dstate = tl.zeros((CHANNELS,), tl.float32)
        for i in tl.static_range(TOKENS - 1, -1, -1):
            dstate = tl.exp2(steps[i] * A_n) * (dstate + dy_rows[i] * C_n[i])
        tl.store(dstates + (chunk * N + n) * channels + c, dstate, mask=c < channels)


@triton.jit
def gradient_kernel(
    dy,
    x,
    delta,
    A,
    B,
    C,
    D,
    bias,
    states,
    dstates,
    dx,
    ddelta,
    dB,
    dC,
    dD,
    dbias,
    batches,
    length,
    channels,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dx and d raw delta; of the others parts, to be summed: dB, dC (channel block, b, n, l), dD, dbias (b, k, c), dA over `dstates`.

    dA's part goes to the slot of dstates that this program alone reads: the chunk behind (for the last chunk slot 0, which nobody reads).
    """
    first, c, start, chunk = _place(length, channels, TOKENS, CHANNELS)
    steps = _steps(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = _rows(x, start, channels, first, length, c, channels, TOKENS, False)
    dy_rows = _rows(dy, start, channels, first, length, c, channels, TOKENS, False)
    scaled, dscaled, dsteps = (), (), ()
    for i in tl.static_range(TOKENS):
        zero = tl.zeros((CHANNELS,), tl.float32)
        scaled, dscaled, dsteps = (
            scaled + (steps[i] * x_rows[i],),
            dscaled + (zero,),
            dsteps + (zero,),
        )
    k, chunks = tl.program_id(0), tl.num_programs(0)
    behind = chunk + 1 if k + 1 < chunks else chunk - k
    next_A = _rate(A, 0, c, channels, N)
    next_entering = _chunk_state(states, chunk - 1, 0, c, k > 0, channels, N)
    next_leaving = _chunk_state(dstates, behind, 0, c, k + 1 < chunks, channels, N)
    for n in range(N):
        A_n, state, dstate = next_A, next_entering, next_leaving
        next_A = _rate(A, n + 1, c, channels, N)
        next_entering = _chunk_state(states, chunk - 1, n + 1, c, k > 0, channels, N)
        next_leaving = _chunk_state(dstates, behind, n + 1, c, k + 1 < chunks, channels, N)
        B_n, C_n = _mixing(B, n, N, TOKENS), _mixing(C, n, N, TOKENS)
        decays, decayed, dC_rows = (), (), ()
        for i in tl.static_range(TOKENS):
            decays = decays + (tl.exp2(steps[i] * A_n),)
            decayed = decayed + (decays[i] * state,)
            state = decayed[i] + scaled[i] * B_n[i]
            dC_rows = dC_rows + (state * dy_rows[i],)
        _store_sums(dC_rows, dC, n, first, batches, length, N)
        dA, dB_rows, new_dscaled, new_dsteps = tl.zeros((CHANNELS,), tl.float32), (), (), ()
        for i in tl.static_range(TOKENS - 1, -1, -1):
            dstate += dy_rows[i] * C_n[i]  # dh_t = dy_t C_t + decay_{t+1} dh_{t+1}
            dexponent = dstate * decayed[i]  # d loss / d (delta A) = dh_t decay_t h_{t-1}
            dA += dexponent * steps[i]
            dB_rows = (dstate * scaled[i],) + dB_rows
            new_dscaled = (dscaled[i] + dstate * B_n[i],) + new_dscaled
            new_dsteps = (dsteps[i] + dexponent * A_n,) + new_dsteps
            dstate = dstate * decays[i]
        _store_sums(dB_rows, dB, n, first, batches, length, N)
        tl.store(dstates + (behind * N + n) * channels + c, dA, mask=c < channels)
        dscaled, dsteps = new_dscaled, new_dsteps
    _finish(
        dscaled,
        dsteps,
        steps,
        dy_rows,
        x,
        delta,
        D,
        bias,
        dx,
        ddelta,
        dD,
        dbias,
        start,
        chunk,
        first,
        length,
        c,
        channels,
        TOKENS,
        CHANNELS,
    )


@triton.jit
def _store_sums(rows, pointer, n, first, batches, length, N: tl.constexpr):
    """The sum over the channels of each of the 16 tokens' rows, into row n of (channel block, b, n, l).

    Two rows become one that holds sums of the first in its lower lanes and of the second in its upper lanes, and so on: 16 exchanges
    of lanes in all, where summing every row by itself would take 80. Token i's sum arrives in lanes 2i and 2i + 1.
    """
    lane = tl.arange(0, 32)
    rows = _merge(_merge(_merge(_merge(rows, lane, 16), lane, 8), lane, 4), lane, 2)
    sums = rows[0] + tl.gather(rows[0], lane ^ 1, 0)
    token = first + lane // 2
    at = ((tl.program_id(1).to(tl.int64) * batches + tl.program_id(2)) * N + n) * length + token
    tl.store(pointer + at, sums, mask=(lane % 2 == 0) & (token < length))


@triton.jit
def _merge(rows, lane, distance: tl.constexpr):
    """`distance` rows as half as many: each lane keeps one row of its pair and adds the partner lane's number of that row."""
    half: tl.constexpr = distance // 2
    upper = (lane & distance) != 0
    merged = ()
    for i in tl.static_range(half):
        kept, sent = (
            tl.where(upper, rows[i + half], rows[i]),
            tl.where(upper, rows[i], rows[i + half]),
        )
        merged = merged + (kept + tl.gather(sent, lane ^ distance, 0),)
    return merged


@triton.jit
def _finish(
    dscaled,
    dsteps,
    steps,
    dy_rows,
    x,
    delta,
    D,
    bias,
    dx,
    ddelta,
    dD,
    dbias,
    start,
    chunk,
    first,
    length,
    c,
    channels,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """From the gradients of delta x and of the step to those of x, raw delta, D and bias. Loads again what registers could not keep."""
    x_rows = _rows(x, start, channels, first, length, c, channels, TOKENS, False)
    raw = _rows(delta, start, channels, first, length, c, channels, TOKENS, False)
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    skip = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    dskip, dshift, dx_rows, ddelta_rows = (
        tl.zeros((CHANNELS,), tl.float32),
        tl.zeros((CHANNELS,), tl.float32),
        (),
        (),
    )
    for i in tl.static_range(TOKENS):
        inside = first + i < length
        dx_rows = dx_rows + (dscaled[i] * steps[i] + dy_rows[i] * skip,)
        dstep = (dsteps[i] / LOG2E + dscaled[i] * x_rows[i]) * tl.sigmoid(raw[i] + shift)
        ddelta_rows = ddelta_rows + (dstep,)
        dskip += dy_rows[i] * x_rows[i]
        dshift += tl.where(inside, dstep, 0.0)
    _store_rows(dx_rows, dx, start, channels, first, length, c, channels, TOKENS, False)
    _store_rows(ddelta_rows, ddelta, start, channels, first, length, c, channels, TOKENS, False)
    tl.store(dD + chunk * channels + c, dskip, mask=c < channels)
    tl.store(dbias + chunk * channels + c, dshift, mask=c < channels)


def scan_forward(x, delta, A, B, C, D, bias):
    """y, and the state after every chunk, (b, k, n, c) fp32, which the backward starts from."""
    grid, sizes = _launch(x, A)
    states, totals = _chunk_buffers(x, A, grid)
    B, C = _whole_chunks(B), _whole_chunks(C)
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
    B, C = _whole_chunks(B), _whole_chunks(C)
    dB, dC = dBC = x.new_empty(2, grid[1], x.shape[0], A.shape[1], x.shape[1], dtype=torch.float32)
    dD, dbias = torch.empty_like(totals), torch.empty_like(totals)
    summary_back_kernel[grid](dy, delta, A, C, bias, dstates, totals, *x.shape[1:], **sizes)
    _carry(dstates, totals, A, grid, sizes, backwards=True)
    gradient_kernel[grid](
        dy,
        x,
        delta,
        A,
        B,
        C,
        D,
        bias,
        states,
        dstates,
        dx,
        ddelta,
        dB,
        dC,
        dD,
        dbias,
        *x.shape,
        **sizes,
    )
    dA, dD, dbias = dstates.sum((0, 1)).t(), dD.sum((0, 1)), dbias.sum((0, 1))
    dB, dC = (
        part.to(B.dtype, copy=True, memory_format=torch.contiguous_format)
        for part in dBC.sum(1).transpose(2, 3)
    )
    return dx, ddelta, dA.to(A.dtype), dB, dC.to(C.dtype), dD.to(D.dtype), dbias.to(bias.dtype)


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


def _whole_chunks(B):
    missing = -B.shape[1] % TOKENS
    return F.pad(B, (0, 0, 0, missing)) if missing else B


def _carry(states, totals, A, grid, sizes, *, backwards):
    carry_kernel[(A.shape[1], grid[1], grid[2])](
        states, totals, A, grid[0], A.shape[0], **sizes, BACKWARDS=backwards
    )
