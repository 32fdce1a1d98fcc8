"""The network's parts: conv block, downsampling, Mamba block.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z), L = D * H * W tokens.
Volumes (B, C, D, H, W) are kept in the channels-last memory format, in which tokens (B, L, C) are a view of them.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from segmamba.models.scan import causal_conv_silu, selective_scan


def norm_layer(kind, channels):
    return {"batch": nn.BatchNorm3d, "instance": nn.InstanceNorm3d}[kind](channels, affine=True)


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution, run as the matrix product that it is on channels-last volumes: torch's CPU kernel for it is 3 times slower."""

    def __init__(self, in_channels, out_channels, *, bias=True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x):
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class ConvBlock(nn.Module):
    """Twice (3x3x3 convolution, norm, ReLU), plus the input; a 1x1x1 convolution fits the input's channels where they differ."""

    def __init__(self, in_channels, out_channels, norm):
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = norm_layer(norm, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm_layer(norm, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else PointwiseConv(in_channels, out_channels, bias=False)

    def forward(self, x):
        inner = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(inner)), inplace=True) + self.shortcut(x)


class Downsample(nn.Sequential):
    """Halves the resolution: 2x2x2 convolution of stride 2, norm, ReLU."""

    def __init__(self, in_channels, out_channels, norm):
        super().__init__(nn.Conv3d(in_channels, out_channels, 2, stride=2, bias=False), norm_layer(norm, out_channels), nn.ReLU(inplace=True))


class Mamba(nn.Module):
    """Mamba's selective state-space layer (Gu & Dao 2023, figure 3), tokens (B, L, C) to tokens (B, L, C).

    Parameter names, shapes and initialisation are those of mamba-ssm's `Mamba`.
    """

    def __init__(self, channels, *, d_state, d_conv, expand, scan):
        super().__init__()
        inner = expand * channels
        self.dt_rank, self.d_state, self.scan = math.ceil(channels / 16), d_state, scan
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._init_step_size()

    def _init_step_size(self, low=1e-3, high=1e-1, floor=1e-4):
        """softplus(dt_proj.bias) is log-uniform in [low, high] (Gu & Dao 2023, section 3.6; limits of their code)."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        step = torch.exp(torch.rand_like(self.dt_proj.bias) * math.log(high / low) + math.log(low)).clamp_min(floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def forward(self, tokens):
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        x = causal_conv_silu(x, self.conv1d.weight, self.conv1d.bias, implementation=self.scan)
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        y = selective_scan(x, delta, -torch.exp(self.A_log.float()), B, C, self.D, self.dt_proj.bias, implementation=self.scan)
        return self.out_proj(y * F.silu(gate))


class MambaBlock(nn.Module):
    """x + Mamba(LayerNorm(x)) over the voxels of a volume in C order (W runs fastest)."""

    def __init__(self, channels, **mamba):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels, **mamba)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)  # (B, L, C)
        mixed = self.mamba(self.norm(tokens)).transpose(1, 2)
        return x + mixed.unflatten(2, x.shape[2:])
