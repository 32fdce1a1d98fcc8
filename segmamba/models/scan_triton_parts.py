"""What the Triton kernels of the selective scan are made of.

A program, one warp, owns one chunk of TOKENS tokens and CHANNELS channels, a lane per channel. Rows
are tuples of TOKENS vectors over its channels: the tokens are unrolled, and what is done along them
is register arithmetic. Registers hold fp32 whatever the tensors' dtype.

Legend: b batch, l tokens, c channels, n states, k chunks. Parameters annotated `tl.tensor` are
pointers, vectors over the lanes, or numbers; `start` is where a program's sample or chunk begins.
"""

# A kernel unrolls its loops, so that a tuple grows within one; mypy knows no such tuple.
# mypy: disable-error-code="assignment"

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
"""It turns exp into the GPU's native exp2."""


@triton.jit
def load_rows(
    pointer: tl.tensor,
    start: tl.tensor,
    pitch: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    TOKENS: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> tl.tuple:
    """TOKENS vectors over the channels c, fp32, of the rows `first`, `first` + 1 and so on.

    With BACKWARDS the rows run down from `first`. A row beyond the `count` of them is zero.
    """
    rows = ()
    for i in tl.static_range(TOKENS):
        row = first - i if BACKWARDS else first + i
        inside = (c < channels) & (row >= 0) & (row < count)
        rows = rows + (
            tl.load(pointer + start + row * pitch + c, mask=inside, other=0.0).to(tl.float32),
        )
    return rows


@triton.jit
def store_rows(
    values: tl.tuple,
    pointer: tl.tensor,
    start: tl.tensor,
    pitch: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    TOKENS: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> None:
    """Store what `load_rows` loads, in the dtype of the tensor."""
    for i in tl.static_range(TOKENS):
        row = first - i if BACKWARDS else first + i
        inside = (c < channels) & (row >= 0) & (row < count)
        tl.store(
            pointer + start + row * pitch + c, values[i].to(pointer.dtype.element_ty), mask=inside
        )


@triton.jit
def softplus(raw: tl.tensor) -> tl.tensor:
    """log(1 + e^raw), with Kahan's log1p: log(1 + e) alone loses the digits of a small e."""
    e = tl.exp(tl.minimum(raw, 20.0))
    w = 1.0 + e
    log1p = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(raw > 20.0, raw, log1p)


@triton.jit
def place(
    length: tl.tensor, channels: tl.tensor, TOKENS: tl.constexpr, CHANNELS: tl.constexpr
) -> tl.tuple:
    """Where this program works.

    It is its first token, its channels, where its sample starts in (b, l, c), and its chunk in
    (b, k).
    """
    batch = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return (
        tl.program_id(0) * TOKENS,
        c,
        batch * length * channels,
        batch * tl.num_programs(0) + tl.program_id(0),
    )


@triton.jit
def step_sizes(
    delta: tl.tensor,
    bias: tl.tensor,
    start: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    TOKENS: tl.constexpr,
) -> tl.tuple:
    """softplus(delta + bias) of every token; behind the last it is 0, which changes no state."""
    shift = tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    raw = load_rows(delta, start, channels, first, length, c, channels, TOKENS, False)
    steps = ()
    for i in tl.static_range(TOKENS):
        steps = steps + (tl.where(first + i < length, softplus(raw[i] + shift), 0.0),)
    return steps


@triton.jit
def rate(
    A: tl.tensor, n: tl.tensor, c: tl.tensor, channels: tl.tensor, N: tl.constexpr
) -> tl.tensor:
    """A of state n, for exp2.

    It is 0 behind the last state, so that a loop may load one state ahead of its use.
    """
    return tl.load(A + c * N + n, mask=(c < channels) & (n < N), other=0.0).to(tl.float32) * LOG2E


@triton.jit
def mixing(B: tl.tensor, n: tl.tensor, N: tl.constexpr, TOKENS: tl.constexpr) -> tl.tuple:
    """B or C of state n: a number for every token.

    B and C are padded to whole chunks, so that no load needs a mask.
    """
    at = ((tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * TOKENS) * N + n
    values = ()
    for i in tl.static_range(TOKENS):
        values = values + (tl.load(B + at + i * N).to(tl.float32),)
    return values


@triton.jit
def chunk_state(
    states: tl.tensor,
    chunk: tl.tensor,
    n: tl.tensor,
    c: tl.tensor,
    exists: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
) -> tl.tensor:
    """State n of a chunk in (b, k, n, c); zero where the chunk or the state does not exist."""
    return tl.load(
        states + (chunk * N + n) * channels + c, mask=(c < channels) & exists & (n < N), other=0.0
    )


@triton.jit
def segment_place(
    chunks: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    CHANNELS: tl.constexpr,
    SEGMENT: tl.constexpr,
) -> tl.tuple:
    """Where a program works that walks over a segment's chunks for one state.

    It is the state n, its channels, the segment's first chunk in (b, k), and how many it has.
    """
    n, first = tl.program_id(1) % N, tl.program_id(0) * SEGMENT
    c = tl.program_id(1) // N * CHANNELS + tl.arange(0, CHANNELS)
    at = tl.program_id(2).to(tl.int64) * chunks + first
    return n, c, at, tl.minimum(chunks - first, SEGMENT)


@triton.jit
def segment_rows(
    states: tl.tensor,
    totals: tl.tensor,
    at: tl.tensor,
    n: tl.tensor,
    first: tl.tensor,
    count: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    N: tl.constexpr,
    TOKENS: tl.constexpr,
    BACKWARDS: tl.constexpr,
) -> tl.tuple:
    """The steps' sums and the states of TOKENS chunks, from the segment's chunk `first` on.

    Chunks that do not exist have steps and states of 0, which change no state.
    """
    steps = load_rows(totals, at * channels, channels, first, count, c, channels, TOKENS, BACKWARDS)
    added = load_rows(
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
    return steps, added


@triton.jit
def store_sums(
    rows: tl.tuple,
    pointer: tl.tensor,
    n: tl.tensor,
    first: tl.tensor,
    batches: tl.tensor,
    length: tl.tensor,
    N: tl.constexpr,
) -> None:
    """Store the sum over the channels of each of the 16 rows, in row n of (channel block, b, n, l).

    Two rows become one that holds sums of the first in its lower lanes and of the second in its
    upper lanes, and so on: 16 exchanges of lanes in all, where summing every row by itself would
    take 80. Token i's sum arrives in lanes 2i and 2i + 1.
    """
    lane = tl.arange(0, 32)
    rows = _merge(_merge(_merge(_merge(rows, lane, 16), lane, 8), lane, 4), lane, 2)
    sums = rows[0] + tl.gather(rows[0], lane ^ 1, 0)
    token = first + lane // 2
    at = ((tl.program_id(1).to(tl.int64) * batches + tl.program_id(2)) * N + n) * length + token
    tl.store(pointer + at, sums, mask=(lane % 2 == 0) & (token < length))


@triton.jit
def _merge(rows: tl.tuple, lane: tl.tensor, distance: tl.constexpr) -> tl.tuple:
    """`distance` rows as half as many.

    Each lane keeps one row of its pair and adds the partner lane's number of that row.
    """
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
def store_gradients(
    dscaled: tl.tuple,
    dsteps: tl.tuple,
    steps: tl.tuple,
    dy_rows: tl.tuple,
    x: tl.tensor,
    delta: tl.tensor,
    D: tl.tensor,
    bias: tl.tensor,
    dx: tl.tensor,
    ddelta: tl.tensor,
    dD: tl.tensor,
    dbias: tl.tensor,
    start: tl.tensor,
    chunk: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    c: tl.tensor,
    channels: tl.tensor,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:
    """From the gradients of delta x and of the step to those of x, raw delta, D and bias.

    x and delta are loaded again: registers could not keep them.
    """
    x_rows = load_rows(x, start, channels, first, length, c, channels, TOKENS, False)
    raw = load_rows(delta, start, channels, first, length, c, channels, TOKENS, False)
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
    store_rows(dx_rows, dx, start, channels, first, length, c, channels, TOKENS, False)
    store_rows(ddelta_rows, ddelta, start, channels, first, length, c, channels, TOKENS, False)
    tl.store(dD + chunk * channels + c, dskip, mask=c < channels)
    tl.store(dbias + chunk * channels + c, dshift, mask=c < channels)
