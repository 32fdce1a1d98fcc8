"""The selective scan as Triton kernels, for a GPU without mamba-ssm.

Importing this file needs triton; nothing else does. The sequence is cut into chunks of TOKENS, and
three launches make the forward:
  1. summary: the state that each chunk would leave if it began at zero;
  2. carry:   the true state after every chunk, a recurrence over the chunks, which are cut into
              segments in the same way where there are many;
  3. output:  every chunk again, from its true first state.
The backward runs the same three on dh, recomputing the states (as Gu & Dao 2023, section 3.3.2,
do). Only the sums over channels, in dB and dC, cross lanes. Every sum has a fixed order: results
are deterministic.

Legend: b batch, l tokens, c channels, n states, k chunks. x, raw delta, y (b, l, c); A (c, n);
B, C (b, l, n); D, bias (c). Chunk states are (b, k, n, c). All tensors are contiguous.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from segmamba.models.scan_triton_kernels import (
    carry_kernel,
    fold_kernel,
    gradient_kernel,
    output_kernel,
    summary_back_kernel,
    summary_kernel,
)
from segmamba.models.scan_types import Gradients

TOKENS, CHANNELS = 16, 32
"""Of a program; 32 is the lanes of a warp, and `store_sums` is written for 16 x 32."""
SEGMENT = 64
"""Chunks that one program carries a state along, one after the other."""
OUTPUT_REGISTERS, GRADIENT_REGISTERS = 96, 168
"""Most registers of a thread of those kernels on an NVIDIA GPU: more programs run at once, which
gains more than the few values cost that then lie in memory."""


def scan_forward(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """y, and the state after every chunk, (b, k, n, c) fp32, from which the backward starts."""
    grid, sizes = _launch(x, A)
    states, totals = _chunk_buffers(x, A, grid)
    B, C = _whole_chunks(B), _whole_chunks(C)
    y = torch.empty_like(x)
    shape = x.shape[1:]
    summary_kernel[grid](x, delta, A, B, bias, states, totals, *shape, **sizes)
    _carry(states, totals, A, sizes, backwards=False)
    sizes |= _at_most(OUTPUT_REGISTERS, x)
    output_kernel[grid](x, delta, A, B, C, D, bias, states, y, *shape, **sizes)
    return y, states


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
    grid, sizes = _launch(x, A)
    dstates, totals = _chunk_buffers(x, A, grid)
    dx, ddelta = torch.empty_like(x), torch.empty_like(delta)
    B, C = _whole_chunks(B), _whole_chunks(C)
    parts = (2, grid[1], x.shape[0], A.shape[1], x.shape[1])  # (B or C, channel block, b, n, l)
    dBC = x.new_empty(parts, dtype=torch.float32)
    dD, dbias = torch.empty_like(totals), torch.empty_like(totals)
    summary_back_kernel[grid](dy, delta, A, C, bias, dstates, totals, *x.shape[1:], **sizes)
    _carry(dstates, totals, A, sizes, backwards=True)
    inputs, outputs = (dy, x, delta, A, B, C, D, bias), (dx, ddelta, dBC[0], dBC[1], dD, dbias)
    sizes |= _at_most(GRADIENT_REGISTERS, x)
    gradient_kernel[grid](*inputs, states, dstates, *outputs, *x.shape, **sizes)
    dA, dD, dbias = dstates.sum((0, 1)).t(), dD.sum((0, 1)), dbias.sum((0, 1))
    dB, dC = (
        part.to(B.dtype, copy=True, memory_format=torch.contiguous_format)
        for part in dBC.sum(1).transpose(2, 3)
    )
    return dx, ddelta, dA.to(A.dtype), dB, dC.to(C.dtype), dD.to(D.dtype), dbias.to(bias.dtype)


def states_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    """(b, k, n, c)."""
    return x.shape[0], triton.cdiv(x.shape[1], TOKENS), A.shape[1], A.shape[0]


def _launch(x: Tensor, A: Tensor) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The grid (chunks, channel blocks, batch), and the kernels' constants."""
    batch, length, channels = x.shape
    grid = (triton.cdiv(length, TOKENS), triton.cdiv(channels, CHANNELS), batch)
    return grid, {"N": A.shape[1], "TOKENS": TOKENS, "CHANNELS": CHANNELS, "num_warps": 1}


def _at_most(registers: int, x: Tensor) -> dict[str, int]:
    """The option that limits a kernel's registers, where the compiler knows it."""
    return {"maxnreg": registers} if x.is_cuda and torch.version.hip is None else {}


def _chunk_buffers(x: Tensor, A: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Uninitialised chunk states (b, k, n, c) and step sums (b, k, c)."""
    batch, _, channels = x.shape
    states = torch.empty(states_shape(x, A), dtype=torch.float32, device=x.device)
    return states, torch.empty(batch, grid[0], channels, dtype=torch.float32, device=x.device)


def _whole_chunks(B: Tensor) -> Tensor:
    """B or C (b, l, n), padded with zeros to whole chunks."""
    missing = -B.shape[1] % TOKENS
    return F.pad(B, (0, 0, 0, missing)) if missing else B


def _carry(
    states: Tensor, totals: Tensor, A: Tensor, sizes: dict[str, Any], *, backwards: bool
) -> None:
    """Make the chunks' own states the true ones, in place."""
    batch, chunks, states_of_channel, channels = states.shape
    segments = triton.cdiv(chunks, SEGMENT)
    grid = (segments, states_of_channel * triton.cdiv(channels, CHANNELS), batch)
    options = sizes | {"SEGMENT": SEGMENT, "BACKWARDS": backwards}
    of_segments = states  # not read, where there is one
    if segments > 1:
        of_segments = states.new_empty(batch, segments, states_of_channel, channels)
        its_totals = totals.new_empty(batch, segments, channels)
        fold_kernel[grid](states, totals, A, of_segments, its_totals, chunks, channels, **options)
        _carry(of_segments, its_totals, A, sizes, backwards=backwards)
    carry_kernel[grid](states, totals, A, of_segments, chunks, channels, **options)
