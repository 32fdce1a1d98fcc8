"""Paths through a volume: the order in which a scan reads the voxels, as a cached permutation.

Legend: B batch, C channels, D, H, W the spatial axes, L = D * H * W tokens.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segmamba.models.compiling import constant_result

Codes = NDArray[np.int64]
KEPT_VOLUMES = 64
"""Permutations that are kept, those used last: some directions of three stages, at a few sizes."""


def path_codes(path: str, sides: Sequence[int]) -> Codes:
    """The place of every voxel of a volume on a path; a path visits them by ascending code.

    Args:
        path: `model.scan_path`. raster: row by row. snake: rows and slices alternate in direction.
            morton: the bits of the coordinates interleaved (Morton 1966). hilbert: the Hilbert
            curve by Skilling's transform (2004, "Programming the Hilbert curve"). The last two are
            those of the smallest cube of a power of two that holds the volume.
        sides: The volume's sides, slowest axis first.

    Returns:
        (side, side, side), all different. Of morton and hilbert they have gaps where the cube goes
        beyond the volume.
    """
    first, second, third = np.indices(sides, dtype=np.int64)
    if path == "snake":
        second = np.where(first % 2 == 1, sides[1] - 1 - second, second)
        # the row's number along the path decides, so that slices join where rows do
        row = first * sides[1] + second
        third = np.where(row % 2 == 1, sides[2] - 1 - third, third)
    if path in ("raster", "snake"):
        return (first * sides[1] + second) * sides[2] + third
    bits = max(max(sides) - 1, 0).bit_length()
    coordinates = [first, second, third]
    return _interleaved(_on_hilbert(coordinates, bits) if path == "hilbert" else coordinates, bits)


def _interleaved(coordinates: Sequence[Codes], bits: int) -> Codes:
    """The bits of three coordinates taken in turns, the first coordinate's first."""
    code = np.zeros_like(coordinates[0])
    for bit in reversed(range(bits)):
        for coordinate in coordinates:
            code = code << 1 | (coordinate >> bit & 1)
    return code


def _on_hilbert(coordinates: Sequence[Codes], bits: int) -> list[Codes]:
    """Skilling's transform: coordinates whose interleaved bits are the place on the curve."""
    axes = [axis.copy() for axis in coordinates]
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for i, axis in enumerate(axes):
            is_set = (axis >> bit & 1).astype(bool)
            swapped = np.where(is_set, 0, (axes[0] ^ axis) & low)
            axes[0] ^= np.where(is_set, low, swapped)
            if i:
                axes[i] ^= swapped
    for i in range(1, len(axes)):  # Gray code
        axes[i] ^= axes[i - 1]
    flips = np.zeros_like(axes[0])
    for bit in range(1, bits):
        flips ^= np.where(axes[-1] >> bit & 1, (1 << bit) - 1, 0)
    return [axis ^ flips for axis in axes]


@functools.lru_cache(KEPT_VOLUMES)
def path_order(
    path: str, axes: tuple[int, ...], backwards: bool, sides: tuple[int, ...]
) -> NDArray[np.int64]:
    """The tokens of a volume in the order of a path, and the way back.

    Args:
        path: `model.scan_path`.
        axes: The axes, slowest first: 0, 1, 2 for D, H, W.
        backwards: Whether the last voxel comes first.
        sides: D, H and W.

    Returns:
        (2, L): the places in memory order that the path visits, and the places on the path of the
        tokens in memory order.
    """
    codes = path_codes(path, [sides[axis] for axis in axes])
    in_memory = codes.transpose([axes.index(axis) for axis in range(len(sides))]).ravel()
    order = np.argsort(in_memory, kind="stable")
    order = order[::-1] if backwards else order
    return np.stack([order, np.argsort(order, kind="stable")])


_ON_GPU: dict[tuple[object, ...], Tensor] = {}
"""All of them stay, since captured graphs read them by their address."""


@constant_result
def order_on(
    device: torch.device,
    path: str,
    axes: tuple[int, ...],
    backwards: bool,
    sides: tuple[int, ...],
) -> Tensor:
    """`path_order` on a device; kept there, since a copy would end the capture of a CUDA graph.

    Args:
        device: Where the tokens are.
        path: As in `path_order`, like the rest.
        axes: See path.
        backwards: See path.
        sides: See path.

    Returns:
        Int64 (2, L).
    """
    order = path_order(path, axes, backwards, sides)
    if device.type != "cuda":
        return torch.from_numpy(order).to(device)
    key = device, path, axes, backwards, sides
    if key in _ON_GPU:
        return _ON_GPU[key]
    on_gpu = torch.from_numpy(order).to(device)
    if type(on_gpu) is Tensor:  # and none of a network that is only traced
        _ON_GPU[key] = on_gpu
    return on_gpu


class Reordered(torch.autograd.Function):
    """Tokens in another order. Both passes gather; torch's own backward pass would scatter."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, way_back: Tensor) -> Tensor:
        """Gather.

        Args:
            ctx: What autograd keeps.
            tokens: (B, L, C).
            order: (L), a permutation.
            way_back: (L), its inverse.

        Returns:
            (B, L, C), whose i-th token is the order[i]-th of `tokens`.
        """
        ctx.save_for_backward(way_back)
        return tokens.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Gather the gradient (B, L, C) by the inverse."""
        (way_back,) = ctx.saved_tensors
        return gradients[0].index_select(1, way_back), None, None
