"""The Mamba block, and the orders in which it reads a volume.

Legend: B batch, C channels, D, H, W the spatial axes (NIfTI x, y, z), L = D * H * W tokens,
E = expand * C inner channels, N = d_state states.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.models.compiling import concrete
from segmamba.models.scan import causal_conv_silu, selective_scan
from segmamba.models.scan_paths import Reordered, order_on

MEMORY_ORDER = (0, 1, 2)
STEP_LOW, STEP_HIGH, STEP_FLOOR = 1e-3, 1e-1, 1e-4
"""The range of the initial step sizes (Gu & Dao 2023, section 3.6), and the floor of their code."""


@dataclass(frozen=True)
class ScanDirection:
    """One direction in which a volume is read as a sequence of tokens."""

    axes: tuple[int, ...]
    """The axes, slowest first: 0, 1, 2 for D, H, W."""
    backwards: bool = False
    """Whether the last voxel comes first."""
    path: str = "raster"
    """`model.scan_path`, whose axes are `axes`."""

    def sequence(self, tokens: Tensor, sides: Sequence[int]) -> Tensor:
        """Put tokens into the order of this direction.

        Args:
            tokens: (B, L, C) in memory order.
            sides: D, H and W.

        Returns:
            (B, L, C) in the order in which this direction reads them.
        """
        if self.path != "raster":
            return Reordered.apply(tokens, *self._path_order(tokens, sides))
        if self.axes != MEMORY_ORDER:
            order = (0, *(1 + axis for axis in self.axes), 4)
            tokens = tokens.unflatten(1, sides).permute(order).flatten(1, 3)
        return tokens.flip(1) if self.backwards else tokens

    def undo(self, tokens: Tensor, sides: Sequence[int]) -> Tensor:
        """Put a sequence that `sequence` made back into memory order.

        Args:
            tokens: (B, L, C) in the order of this direction.
            sides: D, H and W.

        Returns:
            (B, L, C) in memory order.
        """
        if self.path != "raster":
            on_path, in_memory = self._path_order(tokens, sides)
            return Reordered.apply(tokens, in_memory, on_path)
        tokens = tokens.flip(1) if self.backwards else tokens
        if self.axes == MEMORY_ORDER:
            return tokens
        order = (0, *(self.axes.index(axis) + 1 for axis in MEMORY_ORDER), 4)
        return tokens.unflatten(1, [sides[a] for a in self.axes]).permute(order).flatten(1, 3)

    def _path_order(self, tokens: Tensor, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
        order = order_on(tokens.device, self.path, self.axes, self.backwards, concrete(sides))
        return order[0], order[1]


def scan_directions(order: str, axes: str, path: str = "raster") -> list[ScanDirection]:
    """The directions in which a Mamba block reads a volume (Xing et al. 2024, SegMamba).

    Args:
        order: `model.scan_order`: "forward"; "bidirectional", which adds the reverse; or "tri",
            which adds a scan across slices. Across slices the slowest axis runs fastest, so that
            neighbouring tokens lie in neighbouring slices.
        axes: `model.scan_axes`, such as "dhw": the axes of the forward scan, slowest first.
        path: `model.scan_path`, the path of every direction along its axes.

    Returns:
        One to three directions.
    """
    forward = tuple("dhw".index(letter) for letter in axes)
    directions = [
        ScanDirection(forward, path=path),
        ScanDirection(forward, backwards=True, path=path),
        ScanDirection((*forward[1:], forward[0]), path=path),
    ]
    return directions[: {"forward": 1, "bidirectional": 2, "tri": 3}[order]]


class SelectiveScan(nn.Module):
    """Causal convolution, SiLU and selective scan of one sequence (Gu & Dao 2023, algorithm 2).

    Parameter names, shapes and initial values are those of mamba-ssm's `Mamba`.

    Args:
        channels: C, from which the rank of the step size follows: C / 16, rounded up.
        inner: E.
        d_state: N.
        d_conv: Width of the convolution, in tokens.
        implementation: `model.scan`: which implementation computes the scan.
    """

    def __init__(
        self, channels: int, inner: int, *, d_state: int, d_conv: int, implementation: str
    ) -> None:
        super().__init__()
        dt_rank = math.ceil(channels / 16)
        self.implementation = implementation
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        init_step_size(self.dt_proj)

    def forward(self, x: Tensor) -> Tensor:
        """Scan a sequence.

        Args:
            x: (B, L, E).

        Returns:
            (B, L, E), in the dtype of x.
        """
        return scan_tokens(
            x,
            self.conv1d,
            self.x_proj,
            self.dt_proj,
            self.A_log,
            self.D,
            implementation=self.implementation,
        )


def init_step_size(dt_proj: nn.Linear) -> None:
    """Make softplus(dt_proj.bias) log-uniform in [STEP_LOW, STEP_HIGH], in place.

    Args:
        dt_proj: The projection of the step sizes, (E, rank).
    """
    bound = dt_proj.in_features**-0.5
    nn.init.uniform_(dt_proj.weight, -bound, bound)
    init_step_bias(dt_proj.bias)


def init_step_bias(bias: Tensor) -> None:
    """Make softplus(bias) log-uniform in [STEP_LOW, STEP_HIGH], in place.

    Args:
        bias: The offsets of raw step sizes, (E) or (heads).
    """
    uniform = torch.rand_like(bias)
    step = torch.exp(uniform * math.log(STEP_HIGH / STEP_LOW) + math.log(STEP_LOW))
    step = step.clamp_min(STEP_FLOOR)
    inverse_softplus = step + torch.log(-torch.expm1(-step))
    with torch.no_grad():
        bias.copy_(inverse_softplus)


def scan_tokens(
    x: Tensor,
    conv1d: nn.Conv1d,
    x_proj: nn.Linear,
    dt_proj: nn.Linear,
    A_log: Tensor,
    D: Tensor,
    *,
    implementation: str,
) -> Tensor:
    """Causal convolution, SiLU and selective scan of a sequence, by mamba-ssm's parameters.

    Args:
        x: (B, L, E).
        conv1d: Depthwise, (E, 1, width), with a bias.
        x_proj: E to the rank of the step size and twice N.
        dt_proj: The rank of the step size to E.
        A_log: (E, N).
        D: (E).
        implementation: `model.scan`.

    Returns:
        (B, L, E), in the dtype of x.
    """
    x = causal_conv_silu(
        x,
        conv1d.weight,
        conv1d.bias,  # type: ignore[arg-type]  # it is built with a bias
        implementation=implementation,
    )
    states = A_log.shape[1]
    delta, B, C = x_proj(x).split([dt_proj.in_features, states, states], dim=-1)
    delta = F.linear(delta, dt_proj.weight)  # the scan adds the bias, in fp32
    A = -torch.exp(A_log.to(torch.promote_types(A_log.dtype, torch.float32)))
    return selective_scan(x, delta, A, B, C, D, dt_proj.bias, implementation=implementation)


class Mamba(nn.Module):
    """Mamba's layer (Gu & Dao 2023, figure 3): one scan for each direction.

    The directions share the projections in and out.

    Args:
        channels: C.
        directions: The orders in which the tokens are read.
        expand: E / C.
        d_state: N.
        d_conv: Width of the convolution in front of the scan, in tokens.
        implementation: `model.scan`.
        weighted: Whether each direction has a learned weight for each inner channel.
    """

    scan_class: Callable[..., nn.Module] = SelectiveScan
    """What scans the sequence of one direction."""

    def __init__(
        self,
        channels: int,
        directions: Sequence[ScanDirection],
        *,
        expand: int,
        d_state: int,
        d_conv: int,
        implementation: str,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        inner = expand * channels
        self.directions = directions
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.scans = nn.ModuleList(
            self.scan_class(
                channels, inner, d_state=d_state, d_conv=d_conv, implementation=implementation
            )
            for _ in directions
        )
        self.direction_weights = (
            nn.Parameter(torch.ones(len(directions), inner)) if weighted else None
        )
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
        y = self.added(
            [
                direction.undo(scan(direction.sequence(x, sides)), sides)
                for direction, scan in zip(self.directions, self.scans, strict=True)
            ]
        )
        return self.out_proj(y * F.silu(gate))

    def added(self, results: Sequence[Tensor]) -> Tensor:
        """Add what the directions made, (B, L, E) each, by their weights where they have some."""
        if self.direction_weights is not None:
            weights = self.direction_weights.to(results[0].dtype)
            results = [y * weight for y, weight in zip(results, weights, strict=True)]
        return functools.reduce(torch.add, results)


class MambaBlock(nn.Module):
    """x + Mamba(LayerNorm(x)), the voxels being the tokens.

    Args:
        channels: C.
        config: The settings of the scan.
        layer: Mamba, or a layer that is built and called in the same way.
    """

    def __init__(
        self, channels: int, config: ModelConfig, *, layer: Callable[..., nn.Module] = Mamba
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = layer(
            channels,
            scan_directions(config.scan_order, config.scan_axes, config.scan_path),
            expand=config.expand,
            d_state=config.d_state,
            d_conv=config.d_conv,
            implementation=config.scan,
            weighted=config.direction_weights == "learned",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of (B, C, D, H, W)."""
        sides = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, L, C)
        return x + self.mamba(self.norm(tokens), sides).transpose(1, 2).unflatten(2, sides)
