"""3x3x3 convolutions to 32 or 48 channels for Hopper GPUs, in half precision.

cuDNN reaches a quarter of the GPU's rate there. The kernels are in narrow_conv.cu. Around them,
weights are put in the kernels' order and gradients summed by torch, so that torch.compile fuses
that work.

Legend: B batch, C channels, (D, H, W) the volume. Volumes are channels-last; kd, kh, kw are a tap's
place along d, h and w. A stem is a convolution of 4 channels, whose kernel takes pairs of voxels.

The kernels read and write tiles of 32 channels. 48 channels are two tiles that overlap, (0 ... 31)
and (16 ... 47): of what both read, the second has weights of 0, and what both write is the same.
"""

import functools
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models.compiling import constant_result
from segmamba.models.narrow_conv_launch import Kernel, LaunchShape

CHANNELS, STEM_CHANNELS, PAIR = 32, 4, 8
TAKEN = {32: (32, 64), 48: (48,)}
"""Channels of an input that is no stem's, by those of the output."""
WIDTH, TILE_D = 64, 4
"""Voxels along w and d of a block, as in narrow_conv.cu."""
HOPPER = (9, 0)
THREADS, STEM_THREADS = 640, 128
"""Threads of a block; the second in a stem's weight gradient."""
BARRIERS, SUMS = 64, (16 + 1) * 2 * CHANNELS * 4
"""Bytes of shared memory: a block's barriers; the sums of its 16 warps and a norm's factors."""
LEAST_FILLED = 0.75
"""Share of the tiles along w that must be voxels for the kernels to pay."""


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether `narrow_conv` takes these.

    It takes half precision on a Hopper GPU, 4, 32 or 64 channels to 32, 4 or 48 to 48, and a width
    that fills the tiles.

    Args:
        x: (B, C, D, H, W).
        weight: (C', C, kD, kH, kW).

    Returns:
        False where torch must convolve.
    """
    out_channels, in_channels, *kernel = weight.shape
    if (
        not x.is_cuda
        or x.dtype not in (torch.bfloat16, torch.float16)
        or kernel != [3, 3, 3]
        or out_channels not in TAKEN
    ):
        return False
    depth, height, width = x.shape[2:]
    filled = width / (-(-width // WIDTH) * WIDTH)
    known = in_channels in TAKEN[out_channels] or (
        in_channels == STEM_CHANNELS and not x.requires_grad
    )
    return (
        known
        and filled >= LEAST_FILLED
        and 64 * depth * height * width < 2**31  # offsets are 32-bit numbers
        and _available(x.device.index or 0)
    )


@constant_result
def _available(device: int) -> bool:
    return obstacle(device) is None


@functools.cache
def obstacle(device: int = 0) -> str | None:
    """Why cuDNN convolves on a CUDA device.

    Args:
        device: The number of the GPU.

    Returns:
        The reason in words; None where these kernels convolve.
    """
    capability = torch.cuda.get_device_capability(device)
    if capability != HOPPER:
        return (
            f"needs a GPU of compute capability 9.0 (Hopper), not {'.'.join(map(str, capability))}"
        )
    if (
        importlib.util.find_spec("cuda") is None
        or importlib.util.find_spec("cuda.bindings") is None
    ):
        return "cuda-bindings is not installed (torch's CUDA wheels for Linux bring it)"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (torch's CUDA wheels for Linux bring it)"
    return None


def narrow_conv(x: Tensor, weight: Tensor) -> Tensor:
    """The zero-padded convolution.

    Args:
        x: (B, C, D, H, W) in half precision, for which `fits` holds.
        weight: (C', C, 3, 3, 3), C' 32 or 48. Its gradient has its own dtype: under autocast, fp32.

    Returns:
        (B, C', D, H, W) in the dtype of x.
    """
    return _convolution(_input(x), weight, _packed(weight.detach(), x.dtype))


def narrow_conv_relu(x: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """relu(narrow_conv(x, weight) + shift), without gradients, in one pass over memory.

    Args:
        x: (B, C, D, H, W) in half precision, for which `fits` holds.
        weight: (32, C, 3, 3, 3).
        shift: fp32 (32,).

    Returns:
        (B, 32, D, H, W) in the dtype of x.
    """
    return _convolution_relu(_input(x), _packed(weight, x.dtype), shift)


def narrow_conv_sums(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """narrow_conv with what a norm behind it must know, in one pass over memory.

    Args:
        x: (B, C, D, H, W) in half precision, for which `fits` holds.
        weight: (32, C, 3, 3, 3).

    Returns:
        The convolution y (B, 32, D, H, W), and the sums of y and of its square over the voxels of
        each sample, fp32 (B, 2, 32), which have no gradient.
    """
    y, sums = _summed_convolution(_input(x), weight, _packed(weight.detach(), x.dtype))
    return y, _of_samples(sums.detach(), x)


def input_gradient_through_norm(
    dy: Tensor, weight: Tensor, before: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of n where y = narrow_conv(relu(n), weight), n = scale * before + offset.

    Args:
        dy: That of y, (B, 32, D, H, W) in half precision.
        weight: (32, 32, 3, 3, 3).
        before: Like dy, channels-last.
        factors: fp32 (B, 2, 32), scale and offset of every sample and channel.

    Returns:
        The gradient of n, like dy; and the sums of it and of its product with `before` over the
        voxels of each sample, fp32 (B, 2, 32).
    """
    packed = _packed(_flipped(weight), dy.dtype)
    dn, sums = _norm_gradient(_input(dy), packed, before, factors.contiguous())
    return dn, _of_samples(sums, dy)


def weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of `weight` where y = narrow_conv(x, weight).

    Args:
        dy: That of y, (B, 32, D, H, W) in half precision.
        x: (B, C, D, H, W), channels-last, of 32 or 64 channels.
        weight: (32, C, 3, 3, 3).

    Returns:
        The gradient in the dtype of the weight.
    """
    return _weight_gradient(_gradient_parts(_input(dy), x).sum(2), x, weight)


def _input(x: Tensor) -> Tensor:
    """x channels-last; of 4 channels the pairs of voxels (B, 8, D, H, W + 1)."""
    if x.shape[1] == STEM_CHANNELS:
        padded = F.pad(x, (1, 1))
        x = torch.cat([padded[..., :-1], padded[..., 1:]], dim=1)
    return x.contiguous(memory_format=torch.channels_last_3d)


@torch.library.custom_op("segmamba::narrow_conv", mutates_args=())
def _convolution(x: Tensor, weight: Tensor, packed: Tensor) -> Tensor:
    """Convolve x (B, C, D, H, W), or (B, 8, D, H, W + 1) in pairs of voxels.

    `weight` is there for its gradient and the number of its outputs.
    """
    return _convolve(x, packed, None, into=_output(x, len(weight)))


@_convolution.register_fake
def _(x: Tensor, weight: Tensor, packed: Tensor) -> Tensor:
    return _output(x, len(weight))


@torch.library.custom_op("segmamba::narrow_conv_relu", mutates_args=())
def _convolution_relu(x: Tensor, packed: Tensor, shift: Tensor) -> Tensor:
    return _convolve(x, packed, shift.contiguous())


@_convolution_relu.register_fake
def _(x: Tensor, packed: Tensor, shift: Tensor) -> Tensor:
    return _output(x)


@torch.library.custom_op("segmamba::norm_gradient_narrow_conv", mutates_args=())
def _norm_gradient(
    dy: Tensor, packed: Tensor, before: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """input_gradient_through_norm, with the sums of each block, as in _summed_convolution."""
    sums = _sums(dy)
    return _convolve(dy, packed, sums, before, factors, kernel="norm_gradient_convolution"), sums


@_norm_gradient.register_fake
def _(dy: Tensor, packed: Tensor, before: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    return _output(dy), _sums(dy)


@torch.library.custom_op("segmamba::summed_narrow_conv", mutates_args=())
def _summed_convolution(x: Tensor, weight: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    """_convolution, and of each block of voxels the sums of the result and of its square.

    They are fp32 (block, 2, 32); the blocks of a sample follow each other.
    """
    sums = _sums(x)
    return _convolve(x, packed, sums, kernel="summed_convolution"), sums


@_summed_convolution.register_fake
def _(x: Tensor, weight: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    return _output(x), _sums(x)


def _convolve(
    x: Tensor,
    packed: Tensor,
    *extra: Tensor | None,
    kernel: str = "convolution",
    into: Tensor | None = None,
) -> Tensor:
    """Launch a kernel that convolves; `extra` is what it takes behind the result."""
    y = _output(x) if into is None else into
    span, grid = _grid(x, halo=2)
    *_, second = _tiles(x)
    more = int(second > 0)
    shared = packed[0].nbytes + 4 * _slot(x, TILE_D + 2) + BARRIERS + SUMS
    shape = LaunchShape(grid, THREADS, shared)
    integers = [*y.shape[2:], x.shape[1], y.shape[1], span, more]
    for first, part in zip(_tiles(y), packed, strict=True):
        tensors = [x, x[:, second:], part, y[:, first:], *extra]
        _kernel(kernel, x).launch(shape, tensors, integers)
    return y


@torch.library.custom_op("segmamba::narrow_conv_weight_gradient", mutates_args=())
def _gradient_parts(dy: Tensor, x: Tensor) -> Tensor:
    """Sums over the voxels of a block.

    They are fp32 (tile of dy, tile of x, block, unit, kh, 16, output channel); units are those of
    narrow_conv.cu.
    """
    parts, (span, grid) = _parts(dy, x), _grid(x, halo=0)
    shared = 3 * _slot(x, TILE_D + 2) + 7 * TILE_D * WIDTH * 2 * CHANNELS
    threads = STEM_THREADS if x.shape[1] == PAIR else THREADS
    kernel, shape = _kernel("weight_gradient", x), LaunchShape(grid, threads, shared)
    integers = [*dy.shape[2:], x.shape[1], dy.shape[1], span]
    for of_dy, of_tile in zip(_tiles(dy), parts, strict=True):
        for of_x, part in zip(_tiles(x), of_tile, strict=True):
            kernel.launch(shape, [x[:, of_x:], dy[:, of_dy:], part], integers)
    return parts


@_gradient_parts.register_fake
def _(dy: Tensor, x: Tensor) -> Tensor:
    return _parts(dy, x)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight = ctx.saved_tensors
    dy, dx, dweight = dy.contiguous(memory_format=torch.channels_last_3d), None, None
    if ctx.needs_input_grad[0]:
        flipped = _flipped(weight)
        dx = _convolution(dy, flipped, _packed(flipped, dy.dtype))
    if ctx.needs_input_grad[1]:
        dweight = _weight_gradient(_gradient_parts(dy, x).sum(2), x, weight)
    return dx, dweight, None


def _flipped(weight: Tensor) -> Tensor:
    """The weight whose convolution is the gradient of the input."""
    return weight.flip(2, 3, 4).transpose(0, 1)


def _weight_gradient(parts: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Parts that are summed over the blocks, in the order and dtype of the weight."""
    if x.shape[1] == PAIR:  # (tile, 1, kd, kh, kw and channel, output)
        taps = parts.reshape(-1, 3, 3, 4, STEM_CHANNELS, CHANNELS)[:, :, :, :3]
        gradient = taps.permute(0, 5, 4, 1, 2, 3)
    else:
        taps = parts.reshape(*parts.shape[:2], 3, 3, 2, 3, 16, CHANNELS)
        gradient = taps.permute(0, 7, 1, 4, 6, 2, 5, 3).flatten(2, 4)
    gradient = _without_overlap(gradient.flatten(0, 1), weight.shape[0], 0)
    gradient = _without_overlap(gradient, weight.shape[1], 1)
    return gradient.to(weight.dtype).contiguous(memory_format=torch.channels_last_3d)


def _without_overlap(tiles: Tensor, channels: int, dim: int) -> Tensor:
    """The channels of tiles that lie side by side, each of them once."""
    overlap = tiles.shape[dim] - channels
    if not overlap:
        return tiles
    first, rest = tiles.tensor_split((CHANNELS,), dim)
    return torch.cat([first, rest.narrow(dim, overlap, rest.shape[dim] - overlap)], dim)


def _summed_backward(
    ctx: Any, dy: Tensor, dsums: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    return _backward(ctx, dy)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])


_convolution.register_autograd(_backward, setup_context=_keep)
_summed_convolution.register_autograd(_summed_backward, setup_context=_keep)


def _packed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (C', C, 3, 3, 3) in the kernel's order.

    The order is (tile, source, kd, kw, group of 8 inputs, 2 - kh, 32 outputs, 8). A thread holds
    outputs 2 t, 2 t + 1 of each 8; in the order of the outputs they are 8 neighbours. A stem's
    groups are pairs along w.
    """
    overlap = -weight.shape[0] % CHANNELS
    weight = torch.cat([weight[:CHANNELS], weight[CHANNELS - overlap :]]) if overlap else weight
    if weight.shape[1] > CHANNELS and (overlap := -weight.shape[1] % CHANNELS):
        read = weight.new_zeros(len(weight), overlap, *weight.shape[2:])
        weight = torch.cat([weight[:, :CHANNELS], read, weight[:, CHANNELS:]], 1)
    weight = weight.to(dtype).flip(3).unflatten(0, (-1, 4, 4, 2))  # 32 outputs: thread, tile, 2
    if weight.shape[4] == STEM_CHANNELS:
        # (.., channel, kd, kh, group, kw of the group)
        taps = F.pad(weight, (0, 1)).unflatten(-1, (2, 2)).permute(0, 5, 7, 6, 2, 1, 3, 8, 4)
        return taps.reshape(-1, 1, 3, 1, 2, 3, CHANNELS, PAIR).contiguous()
    weight = weight.unflatten(4, (-1, 4, 8)).permute(0, 4, 7, 9, 5, 8, 2, 1, 3, 6)
    return weight.reshape(weight.shape[0], -1, 3, 3, 4, 3, CHANNELS, 8).contiguous()


def _tiles(x: Tensor) -> list[int]:
    """The first channels of the tiles of (B, C, D, H, W)."""
    last = max(x.shape[1] - CHANNELS, 0)
    return [min(first, last) for first in range(0, x.shape[1], CHANNELS)]


def _output(x: Tensor, channels: int = CHANNELS) -> Tensor:
    shape = (x.shape[0], channels, *_volume(x))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _parts(dy: Tensor, x: Tensor) -> Tensor:
    _, (blocks_hw, blocks_d, batch) = _grid(x, halo=0)
    units = 3 if x.shape[1] == PAIR else 18
    tiles = len(_tiles(dy)), len(_tiles(x))
    shape = (*tiles, blocks_hw * blocks_d * batch, units, 3, 16, CHANNELS)
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _of_samples(sums: Tensor, x: Tensor) -> Tensor:
    """The sums of x's samples (B, 2, 32) from those of their blocks."""
    return sums.unflatten(0, (x.shape[0], -1)).sum(1)


def _sums(x: Tensor) -> Tensor:
    _, (blocks_hw, blocks_d, batch) = _grid(x, halo=2)
    shape = (blocks_hw * blocks_d * batch, 2, CHANNELS)
    return torch.empty(shape, dtype=torch.float32, device=x.device)


def _volume(x: Tensor) -> tuple[int, int, int]:
    """D, H and W of the convolution's result."""
    return x.shape[2], x.shape[3], x.shape[4] - (x.shape[1] == PAIR)


def _grid(x: Tensor, *, halo: int) -> tuple[int, tuple[int, int, int]]:
    """The rows along h of a block, and the blocks: those that take the fewest steps on this GPU.

    A block costs its `halo` and about 4 steps to begin and to end, and a weight gradient of its
    own.
    """
    # a compiled network's symbolic sizes become numbers
    batch, depth, height, width = (int(n) for n in (x.shape[0], *_volume(x)))
    tiles_w, tiles_d = -(-width // WIDTH), -(-depth // TILE_D)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count

    def steps(span: int) -> int:
        waves = -(-(batch * tiles_d * tiles_w * -(-height // span)) // processors)
        return waves * (span + halo + 4)

    span = min(sorted({-(-height // pieces) for pieces in range(1, height // 8 + 2)}), key=steps)
    return span, (tiles_w * -(-height // span), tiles_d, batch)


def _slot(x: Tensor, planes: int) -> int:
    """Bytes of shared memory of a row of a block's voxels, halo included."""
    return planes * (WIDTH + 2) * min(x.shape[1], CHANNELS) * 2


def _kernel(name: str, x: Tensor) -> Kernel:
    return Kernel(name, x.shape[1] == PAIR, x.dtype, x.device)
