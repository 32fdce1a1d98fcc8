"""The Mamba layer of the field's networks, with the parameters of mamba-ssm's `Mamba`.

It computes what that one computes, on our scan: wherever torch runs, and without mamba-ssm.

Legend: B batch, C channels, D, H, W the spatial axes in the order in which a network takes them,
L = D * H * W tokens, E = expand * C inner channels, N = d_state states.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.models.mamba import ScanDirection, init_step_size, scan_tokens


class AuthorsMamba(nn.Module):
    """mamba-ssm's layer, and the variant with several scans that SegMamba ships.

    A scan with the suffix "_b" has the parameters conv1d_b, x_proj_b, dt_proj_b, A_b_log and D_b.
    The projections in and out, and the gate, belong to all. Like the authors, only the scan without
    a suffix begins with the step sizes of Mamba's paper; the others begin with torch's values for
    dt_proj, steps around 0.7.

    Args:
        channels: C.
        scans: The orders in which the tokens are read, by the suffix of the parameters that read
            them. The directions of one suffix share its parameters.
        config: `d_state`, `d_conv`, `expand` and `scan`.
    """

    def __init__(
        self, channels: int, scans: Mapping[str, Sequence[ScanDirection]], config: ModelConfig
    ) -> None:
        super().__init__()
        inner, states = config.expand * channels, config.d_state
        rank = math.ceil(channels / 16)
        self.scans, self.implementation = scans, config.scan
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        for suffix in scans:
            convolution = nn.Conv1d(
                inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1
            )
            dt_proj = nn.Linear(rank, inner)
            if not suffix:
                init_step_size(dt_proj)
            A_log = torch.arange(1.0, states + 1).log().repeat(inner, 1)
            self.add_module(f"conv1d{suffix}", convolution)
            self.add_module(f"x_proj{suffix}", nn.Linear(inner, rank + 2 * states, bias=False))
            self.add_module(f"dt_proj{suffix}", dt_proj)
            self.register_parameter(f"A{suffix}_log", nn.Parameter(A_log))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, tokens: Tensor, sides: Sequence[int]) -> Tensor:
        """Mix tokens.

        Args:
            tokens: (B, L, C) in memory order.
            sides: D, H and W of the volume that they make up.

        Returns:
            (B, L, C) in memory order.
        """
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        total = None
        for suffix, directions in self.scans.items():
            # sequences of one scan's parameters are scanned as one batch
            sequences = [direction.sequence(x, sides) for direction in directions]
            scanned = self._scan(
                torch.cat(sequences) if len(sequences) > 1 else sequences[0], suffix
            )
            # not `chunk`, whose number of pieces a graph for any batch would have to know
            parts = scanned.unflatten(0, (len(sequences), -1)).unbind()
            for direction, y in zip(directions, parts, strict=True):
                y = direction.undo(y, sides)
                total = y if total is None else total + y
        assert total is not None, "there is at least one direction"
        return self.out_proj(total * F.silu(gate))

    def _scan(self, x: Tensor, suffix: str) -> Tensor:
        return scan_tokens(
            x,
            cast(nn.Conv1d, getattr(self, f"conv1d{suffix}")),
            cast(nn.Linear, getattr(self, f"x_proj{suffix}")),
            cast(nn.Linear, getattr(self, f"dt_proj{suffix}")),
            getattr(self, f"A{suffix}_log"),
            getattr(self, f"D{suffix}"),
            implementation=self.implementation,
        )


class MambaLayer(nn.Module):
    """Mamba(LayerNorm(x)), the voxels being the tokens, without a residual.

    Args:
        channels: C.
        scans: As AuthorsMamba takes them.
        config: The settings of the scan.
    """

    def __init__(
        self, channels: int, scans: Mapping[str, Sequence[ScanDirection]], config: ModelConfig
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = AuthorsMamba(channels, scans, config)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of (B, C, D, H, W)."""
        sides = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, L, C)
        return self.mamba(self.norm(tokens), sides).transpose(1, 2).unflatten(2, sides)


class ResidualMambaLayer(MambaLayer):
    """x + Mamba(LayerNorm(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of (B, C, D, H, W)."""
        return x + super().forward(x)
