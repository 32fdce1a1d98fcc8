"""The kernels of the selective scan, which `scan_triton` launches.

The forward is summary, carry, output; the backward is summary_back, carry, gradient. Where there
are many chunks, fold comes before carry. A program loops over the states n with the chunk's tokens
unrolled, and loads one state ahead of its use; fold and carry have a program for every state.

Legend: b batch, l tokens, c channels, n states, k chunks. x, raw delta, y (b, l, c); A (c, n);
B, C (b, l, n), padded to whole chunks; D, bias (c); chunk states (b, k, n, c) fp32. Parameters
annotated `tl.tensor` are pointers to contiguous tensors, or numbers.
"""

# A kernel unrolls its loops, so that a tuple grows within one; mypy knows no such tuple.
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl

from segmamba.models.scan_triton_parts import (
    chunk_state,
    load_rows,
    mixing,
    place,
    rate,
    segment_place,
    segment_rows,
    step_sizes,
    store_gradients,
    store_rows,
    store_sums,
)


@triton.jit
def summary_kernel(
    x: tl.tensor,
    delta: tl.tensor,
    A: tl.tensor,
    B: tl.tensor,
    bias: tl.tensor,
    states: tl.tensor,
    totals: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """states[k]: what chunk k adds to the state behind it; totals[k], (b, k, c): its steps' sum."""
    first, c, start, chunk = place(length, channels, TOKENS, CHANNELS)
    steps = step_sizes(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = load_rows(x, start, channels, first, length, c, channels, TOKENS, False)
    total, scaled = tl.zeros((CHANNELS,), tl.float32), ()
    for i in tl.static_range(TOKENS):
        total += steps[i]
        scaled = scaled + (steps[i] * x_rows[i],)
    tl.store(totals + chunk * channels + c, total, mask=c < channels)
    for n in range(N):
        A_n, B_n = rate(A, n, c, channels, N), mixing(B, n, N, TOKENS)
        state = tl.zeros((CHANNELS,), tl.float32)
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + scaled[i] * B_n[i]
        tl.store(states + (chunk * N + n) * channels + c, state, mask=c < channels)


@triton.jit
def fold_kernel(
    states: tl.tensor,
    totals: tl.tensor,
    A: tl.tensor,
    of_segments: tl.tensor,
    totals_of_segments: tl.tensor,
    chunks: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> None:
    """What a segment, SEGMENT chunks, adds to the state behind it, and its steps' sum.

    Segments are laid out as chunks are: (b, segment, n, c) and (b, segment, c).
    """
    n, c, at, count = segment_place(chunks, channels, N, CHANNELS, SEGMENT)
    A_n = rate(A, n, c, channels, N)
    state, total = tl.zeros((CHANNELS,), tl.float32), tl.zeros((CHANNELS,), tl.float32)
    for done in range(0, SEGMENT, TOKENS):
        first = SEGMENT - 1 - done if BACKWARDS else done
        steps, added = segment_rows(
            states, totals, at, n, first, count, c, channels, N, TOKENS, BACKWARDS
        )
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + added[i]
            total += steps[i]
    segment = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(of_segments + (segment * N + n) * channels + c, state, mask=c < channels)
    tl.store(totals_of_segments + segment * channels + c, total, mask=(c < channels) & (n == 0))


@triton.jit
def carry_kernel(
    states: tl.tensor,
    totals: tl.tensor,
    A: tl.tensor,
    of_segments: tl.tensor,
    chunks: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> None:
    """In place: states[k] += decay_k * states of the chunk before (behind, if BACKWARDS).

    of_segments, (b, segment, n, c), are the true states that the segments leave.
    """
    n, c, at, count = segment_place(chunks, channels, N, CHANNELS, SEGMENT)
    A_n = rate(A, n, c, channels, N)
    segment, segments = tl.program_id(0), tl.num_programs(0)
    before = segment + 1 if BACKWARDS else segment - 1
    exists = (before >= 0) & (before < segments)
    sample = tl.program_id(2).to(tl.int64) * segments
    state = chunk_state(of_segments, sample + before, n, c, exists, channels, N)
    for done in range(0, SEGMENT, TOKENS):
        first = SEGMENT - 1 - done if BACKWARDS else done
        steps, added = segment_rows(
            states, totals, at, n, first, count, c, channels, N, TOKENS, BACKWARDS
        )
        carried = ()
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + added[i]
            carried = carried + (state,)
        store_rows(
            carried,
            states,
            (at * N + n) * channels,
            N * channels,
            first,
            count,
            c,
            channels,
            TOKENS,
            BACKWARDS,
        )


@triton.jit
def output_kernel(
    x: tl.tensor,
    delta: tl.tensor,
    A: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D: tl.tensor,
    bias: tl.tensor,
    states: tl.tensor,
    y: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """y of every chunk, from its true first state."""
    first, c, start, chunk = place(length, channels, TOKENS, CHANNELS)
    steps = step_sizes(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = load_rows(x, start, channels, first, length, c, channels, TOKENS, False)
    skip = tl.load(D + c, mask=c < channels, other=0.0).to(tl.float32)
    scaled, y_rows = (), ()
    for i in tl.static_range(TOKENS):
        scaled, y_rows = scaled + (steps[i] * x_rows[i],), y_rows + (skip * x_rows[i],)
    later = tl.program_id(0) > 0
    next_A, next_state = (
        rate(A, 0, c, channels, N),
        chunk_state(states, chunk - 1, 0, c, later, channels, N),
    )
    for n in range(N):
        A_n, state, sums = next_A, next_state, ()
        next_A, next_state = (
            rate(A, n + 1, c, channels, N),
            chunk_state(states, chunk - 1, n + 1, c, later, channels, N),
        )
        B_n, C_n = mixing(B, n, N, TOKENS), mixing(C, n, N, TOKENS)
        for i in tl.static_range(TOKENS):
            state = tl.exp2(steps[i] * A_n) * state + scaled[i] * B_n[i]
            sums = sums + (y_rows[i] + state * C_n[i],)
        y_rows = sums
    store_rows(y_rows, y, start, channels, first, length, c, channels, TOKENS, False)


@triton.jit
def summary_back_kernel(
    dy: tl.tensor,
    delta: tl.tensor,
    A: tl.tensor,
    C: tl.tensor,
    bias: tl.tensor,
    dstates: tl.tensor,
    totals: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """dstates[k]: what chunk k's outputs add to the gradient of the state in front of it.

    totals are those of `summary_kernel`.
    """
    first, c, start, chunk = place(length, channels, TOKENS, CHANNELS)
    steps = step_sizes(delta, bias, start, first, length, c, channels, TOKENS)
    dy_rows = load_rows(dy, start, channels, first, length, c, channels, TOKENS, False)
    total = tl.zeros((CHANNELS,), tl.float32)
    for i in tl.static_range(TOKENS):
        total += steps[i]
    tl.store(totals + chunk * channels + c, total, mask=c < channels)
    for n in range(N):
        A_n, C_n = rate(A, n, c, channels, N), mixing(C, n, N, TOKENS)
        dstate = tl.zeros((CHANNELS,), tl.float32)
        for i in tl.static_range(TOKENS - 1, -1, -1):
            dstate = tl.exp2(steps[i] * A_n) * (dstate + dy_rows[i] * C_n[i])
        tl.store(dstates + (chunk * N + n) * channels + c, dstate, mask=c < channels)


@triton.jit
def gradient_kernel(
    dy: tl.tensor,
    x: tl.tensor,
    delta: tl.tensor,
    A: tl.tensor,
    B: tl.tensor,
    C: tl.tensor,
    D: tl.tensor,
    bias: tl.tensor,
    states: tl.tensor,
    dstates: tl.tensor,
    dx: tl.tensor,
    ddelta: tl.tensor,
    dB: tl.tensor,
    dC: tl.tensor,
    dD: tl.tensor,
    dbias: tl.tensor,
    batches: tl.tensor,
    length: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """dx and d raw delta, and parts of the other gradients, which are to be summed.

    The parts are dB and dC, (channel block, b, n, l); dD and dbias, (b, k, c); and dA, over
    `dstates`: dA's part goes to the slot that this program alone reads, the chunk behind. The last
    chunk takes slot 0, which no program reads.
    """
    first, c, start, chunk = place(length, channels, TOKENS, CHANNELS)
    steps = step_sizes(delta, bias, start, first, length, c, channels, TOKENS)
    x_rows = load_rows(x, start, channels, first, length, c, channels, TOKENS, False)
    dy_rows = load_rows(dy, start, channels, first, length, c, channels, TOKENS, False)
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
    next_A = rate(A, 0, c, channels, N)
    next_entering = chunk_state(states, chunk - 1, 0, c, k > 0, channels, N)
    next_leaving = chunk_state(dstates, behind, 0, c, k + 1 < chunks, channels, N)
    for n in range(N):
        A_n, state, dstate = next_A, next_entering, next_leaving
        next_A = rate(A, n + 1, c, channels, N)
        next_entering = chunk_state(states, chunk - 1, n + 1, c, k > 0, channels, N)
        next_leaving = chunk_state(dstates, behind, n + 1, c, k + 1 < chunks, channels, N)
        B_n, C_n = mixing(B, n, N, TOKENS), mixing(C, n, N, TOKENS)
        decays, decayed, dC_rows = (), (), ()
        for i in tl.static_range(TOKENS):
            decays = decays + (tl.exp2(steps[i] * A_n),)
            decayed = decayed + (decays[i] * state,)
            state = decayed[i] + scaled[i] * B_n[i]
            dC_rows = dC_rows + (state * dy_rows[i],)
        store_sums(dC_rows, dC, n, first, batches, length, N)
        dA, dB_rows, new_dscaled, new_dsteps = tl.zeros((CHANNELS,), tl.float32), (), (), ()
        for i in tl.static_range(TOKENS - 1, -1, -1):
            dstate += dy_rows[i] * C_n[i]  # dh_t = dy_t C_t + decay_{t+1} dh_{t+1}
            dexponent = dstate * decayed[i]  # d loss / d (delta A) = dh_t decay_t h_{t-1}
            dA += dexponent * steps[i]
            dB_rows = (dstate * scaled[i],) + dB_rows
            new_dscaled = (dscaled[i] + dstate * B_n[i],) + new_dscaled
            new_dsteps = (dsteps[i] + dexponent * A_n,) + new_dsteps
            dstate = dstate * decays[i]
        store_sums(dB_rows, dB, n, first, batches, length, N)
        tl.store(dstates + (behind * N + n) * channels + c, dA, mask=c < channels)
        dscaled, dsteps = new_dscaled, new_dsteps
    store_gradients(
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
