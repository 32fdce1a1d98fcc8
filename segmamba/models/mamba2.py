"""Mamba-2's layer (Dao & Gu 2024, figure 6, "Mamba-2 block").

Legend: B batch, C channels, L tokens, E = expand * C inner channels, N = d_state states, H heads,
P = E / H channels of a head.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.models.duality import dual_scan
from segmamba.models.mamba import Mamba, ScanDirection, init_step_bias
from segmamba.models.scan import causal_conv_silu

HEAD_CHANNELS = 64
"""P of the authors' models. Where E is no multiple, their greatest common divisor."""
A_LOW, A_HIGH = 1.0, 16.0
"""The range of the initial -A, uniform (their code, A_init_range)."""


class DualScan(nn.Module):
    """Causal convolution, SiLU and Mamba-2's scan of one sequence.

    Names, shapes and initial values are those of mamba-ssm's `Mamba2` with one group of B and C;
    bcdt_proj is the part of its in_proj that makes them and the steps.

    Args:
        channels: C.
        inner: E.
        d_state: N.
        d_conv: Width of the convolution, in tokens.
        implementation: `model.scan`.
    """

    def __init__(
        self, channels: int, inner: int, *, d_state: int, d_conv: int, implementation: str
    ) -> None:
        super().__init__()
        heads = inner // math.gcd(inner, HEAD_CHANNELS)
        self.inner, self.d_state, self.heads = inner, d_state, heads
        self.implementation = implementation
        self.bcdt_proj = nn.Linear(channels, 2 * d_state + heads, bias=False)
        width = inner + 2 * d_state
        self.conv1d = nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1)
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(A_LOW, A_HIGH).log())
        self.D = nn.Parameter(torch.ones(heads))
        init_step_bias(self.dt_bias)

    def forward(self, x: Tensor, bcdt: Tensor) -> Tensor:
        """Scan a sequence.

        Args:
            x: (B, L, E).
            bcdt: (B, L, 2 N + H), made by `bcdt_proj`: B, C and the raw steps.

        Returns:
            (B, L, E), in the dtype of x.
        """
        weight, bias, inner = self.conv1d.weight, self.conv1d.bias, self.inner
        assert bias is not None, "it is built with a bias"
        bc, delta = bcdt.split([2 * self.d_state, self.heads], dim=-1)
        x = causal_conv_silu(x, weight[:inner], bias[:inner], implementation="portable")
        bc = causal_conv_silu(bc, weight[inner:], bias[inner:], implementation="portable")
        B, C = bc.chunk(2, dim=-1)
        A_log = self.A_log
        A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
        y = dual_scan(
            x.unflatten(-1, (self.heads, -1)),
            delta,
            A,
            B,
            C,
            self.D,
            self.dt_bias,
            implementation=self.implementation,
        )
        return y.flatten(2)


class Mamba2(Mamba):
    """Mamba's layer around Mamba-2's scans, with a gated norm behind them.

    Args:
        channels: C.
        directions: The orders in which the tokens are read.
        expand: E / C.
        **settings: The others of `Mamba`.
    """

    scan_class = DualScan

    def __init__(
        self, channels: int, directions: Sequence[ScanDirection], *, expand: int, **settings: Any
    ) -> None:
        super().__init__(channels, directions, expand=expand, **settings)
        self.norm = nn.RMSNorm(expand * channels, eps=1e-5)

    def forward(self, tokens: Tensor, sides: Sequence[int]) -> Tensor:
        """Mix tokens.

        Args:
            tokens: (B, L, C) in memory order.
            sides: D, H and W of the volume that they make up.

        Returns:
            (B, L, C) in memory order.
        """
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        results = [
            direction.undo(
                scan(
                    direction.sequence(x, sides),
                    direction.sequence(scan.bcdt_proj(tokens), sides),  # type: ignore[operator]  # a DualScan
                ),
                sides,
            )
            for direction, scan in zip(self.directions, self.scans, strict=True)
        ]
        gated = self.added(results).to(self.norm.weight.dtype) * F.silu(gate)  # fp16 could overflow
        return self.out_proj(self.norm(gated))
