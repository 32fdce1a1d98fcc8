"""The Mamba block, and the orders in which it reads a volume.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z), L = D * H * W tokens, E = expand * C inner channels.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from segmamba.models.scan import causal_conv_silu, selective_scan


@dataclass(frozen=True)
class ScanDirection:
    """One way through a volume: its axes (0, 1, 2 for D, H, W), slowest first, and whether from the last voxel to the first."""

    axes: tuple
    backwards: bool = False

    def sequence(self, tokens, sides):
        """Tokens (B, L, C) in memory order as the sequence that this way reads."""
        if self.axes != (0, 1, 2):
            tokens = (
                tokens.unflatten(1, sides).permute(0, *(1 + a for a in self.axes), 4).flatten(1, 3)
            )
        return tokens.flip(1) if self.backwards else tokens

    def undo(self, tokens, sides):
        """A sequence that `sequence` made, back in memory order."""
        tokens = tokens.flip(1) if self.backwards else tokens
        if self.axes == (0, 1, 2):
            return tokens
        back = (self.axes.index(axis) + 1 for axis in range(3))
        return tokens.unflatten(1, [sides[a] for a in self.axes]).permute(0, *back, 4).flatten(1, 3)


def scan_ways(order, axes):
    """The Ways of `model.scan_order` and `model.scan_axes`. Across slices, the slowest axis runs fastest: neighbours are in neighbouring slices."""
    axes = tuple("dhw".index(letter) for letter in axes)
    ways = [
        ScanDirection(axes),
        ScanDirection(axes, backwards=True),
        ScanDirection((*axes[1:], axes[0])),
    ]
    return ways[: {"forward": 1, "bidirectional": 2, "tri": 3}[order]]


class SelectiveScan(nn.Module):
    """Causal convolution, SiLU and selective scan of one sequence, (B, L, E) to (B, L, E) (Gu & Dao 2023, algorithm 2).

    Parameter names, shapes and initial values are those of mamba-ssm's `Mamba`.
    """

    def __init__(self, channels, inner, *, d_state, d_conv, implementation):
        super().__init__()
        self.dt_rank, self.d_state, self.implementation = (
            math.ceil(channels / 16),
            d_state,
            implementation,
        )
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self._init_step_size()

    def _init_step_size(self, low=1e-3, high=1e-1, floor=1e-4):
        """softplus(dt_proj.bias) is log-uniform in [low, high] (Gu & Dao 2023, section 3.6; limits of their code)."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        step = torch.exp(
            torch.rand_like(self.dt_proj.bias) * math.log(high / low) + math.log(low)
        ).clamp_min(floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(
                step + torch.log(-torch.expm1(-step))
            )  # the inverse of softplus

    def forward(self, x):
        x = causal_conv_silu(
            x, self.conv1d.weight, self.conv1d.bias, implementation=self.implementation
        )
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)  # the scan adds the bias, in fp32
        A = -torch.exp(self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)))
        return selective_scan(
            x, delta, A, B, C, self.D, self.dt_proj.bias, implementation=self.implementation
        )


class Mamba(nn.Module):
    """Mamba's layer (Gu & Dao 2023, figure 3), tokens (B, L, C) to tokens (B, L, C): one SelectiveScan for each way, between shared projections."""

    def __init__(self, channels, ways, *, expand, **scan):
        super().__init__()
        self.ways = ways
        self.in_proj = nn.Linear(channels, 2 * expand * channels, bias=False)
        self.scans = nn.ModuleList(SelectiveScan(channels, expand * channels, **scan) for _ in ways)
        self.out_proj = nn.Linear(expand * channels, channels, bias=False)

    def forward(self, tokens, sides):
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        y = sum(
            way.undo(scan(way.sequence(x, sides)), sides)
            for way, scan in zip(self.ways, self.scans, strict=True)
        )
        return self.out_proj(y * F.silu(gate))


class MambaBlock(nn.Module):
    """x + Mamba(LayerNorm(x)), the voxels (B, C, D, H, W) being the tokens."""

    def __init__(self, channels, config):
        super().__init__()
        ways = scan_ways(config.scan_order, config.scan_axes)
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(
            channels,
            ways,
            expand=config.expand,
            d_state=config.d_state,
            d_conv=config.d_conv,
            implementation=config.scan,
        )

    def forward(self, x):
        sides = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, L, C)
        return x + self.mamba(self.norm(tokens), sides).transpose(1, 2).unflatten(2, sides)
