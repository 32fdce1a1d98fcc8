"""3x3x3 convolutions to 32 channels for Hopper GPUs, in half precision: cuDNN reaches a quarter of the GPU's rate there.

The kernels are in narrow_conv.cu, compiled when they first run by NVRTC, which torch's CUDA wheels for Linux bring with cuda-bindings.
Around them, weights are put in the kernels' order and gradients summed by torch, so that torch.compile fuses that work.

Legend: B batch, C channels, (D, H, W) the volume. Volumes are channels-last; kd, kh, kw are a tap's place along d, h and w.
"""

import ctypes
import functools
import importlib.util
from importlib import resources

import torch
import torch.nn.functional as F
from torch import Tensor

from segmamba.models.compiling import constant_result

CHANNELS, STEM_CHANNELS, PAIR = 32, 4, 8
WIDTH, TILE_D = 64, 4  # voxels along w and d of a block, as in narrow_conv.cu


def fits(x, weight):
    """Whether `narrow_conv` takes these: on a Hopper GPU, half precision, 4, 32 or 64 to 32 channels, a width that fills the tiles."""
    out_channels, in_channels, *kernel = weight.shape
    if (
        not x.is_cuda
        or x.dtype not in (torch.bfloat16, torch.float16)
        or kernel != [3, 3, 3]
        or out_channels != CHANNELS
    ):
        return False
    depth, height, width = x.shape[2:]
    filled = width / (-(-width // WIDTH) * WIDTH)
    known = in_channels in (CHANNELS, 2 * CHANNELS) or (
        in_channels == STEM_CHANNELS and not x.requires_grad
    )
    return (
        known
        and filled >= 0.75
        and 64 * depth * height * width < 2**31
        and _available(x.device.index or 0)
    )


@constant_result
def _available(device):
    return obstacle(device) is None


@functools.cache
def obstacle(device=0):
    """Why cuDNN convolves on this CUDA device, in words; None where these kernels do."""
    capability = torch.cuda.get_device_capability(device)
    if capability != (9, 0):
        return (
            f"needs a GPU of compute capability 9.0 (Hopper), not {'.'.join(map(str, capability))}"
        )
    if (
        importlib.util.find_spec("cuda") is None
        or importlib.util.find_spec("cuda.bindings") is None
    ):
        return "cuda-bindings is not installed (torch's CUDA wheels for Linux bring it)"
    return None


def narrow_conv(x, weight):
    """The zero-padded convolution, (B, C, D, H, W) in half precision with (32, C, 3, 3, 3) to (B, 32, D, H, W) in the dtype of x.

    The weight's gradient has its own dtype: under autocast, fp32.
    """
    return _convolution(_input(x), weight, _packed(weight.detach(), x.dtype))


def narrow_conv_relu(x, weight, shift):
    """relu(narrow_conv(x, weight) + shift), shift fp32 (32,): without gradients, in one pass over memory."""
    return _convolution_relu(_input(x), _packed(weight, x.dtype), shift)


def _input(x):
    """x channels-last; of 4 channels the pairs of voxels (B, 8, D, H, W + 1)."""
    if x.shape[1] == STEM_CHANNELS:
        padded = F.pad(x, (1, 1))
        x = torch.cat([padded[..., :-1], padded[..., 1:]], dim=1)
    return x.contiguous(memory_format=torch.channels_last_3d)


@torch.library.custom_op("segmamba::narrow_conv", mutates_args=())
def _convolution(x: Tensor, weight: Tensor, packed: Tensor) -> Tensor:
    """x (B, C, D, H, W), or (B, 8, D, H, W + 1) in pairs of voxels. `weight` is there for its gradient."""
    return _convolve(x, packed, None)


@_convolution.register_fake
def _(x, weight, packed):
    return _output(x, packed)


@torch.library.custom_op("segmamba::narrow_conv_relu", mutates_args=())
def _convolution_relu(x: Tensor, packed: Tensor, shift: Tensor) -> Tensor:
    return _convolve(x, packed, shift.contiguous())


@_convolution_relu.register_fake
def _(x, packed, shift):
    return _output(x, packed)


def _convolve(x, packed, shift):
    y, (span, grid) = _output(x, packed), _grid(x, halo=2)
    more = int(x.shape[1] == 2 * CHANNELS)
    shared = packed[0].nbytes + 4 * _slot(x, TILE_D + 2) + 64
    for first, part in enumerate(packed):
        tensors = [x, x[:, CHANNELS * more :], part, y[:, first * CHANNELS :], shift]
        _launch(
            "convolution",
            x,
            grid,
            640,
            shared,
            tensors,
            [*y.shape[2:], x.shape[1], y.shape[1], span, more],
        )
    return y


@torch.library.custom_op("segmamba::narrow_conv_weight_gradient", mutates_args=())
def _gradient_parts(dy: Tensor, x: Tensor) -> Tensor:
    """Sums over the voxels of a block, fp32 (32 input channels, block, unit, kh, 16, output channel); units are narrow_conv.cu's."""
    parts, (span, grid) = _parts(x), _grid(x, halo=0)
    stem, shared = x.shape[1] == PAIR, 3 * _slot(x, TILE_D + 2) + 7 * TILE_D * WIDTH * 2 * CHANNELS
    for first, part in enumerate(parts):
        integers = [*dy.shape[2:], x.shape[1], CHANNELS, span]
        _launch(
            "weight_gradient",
            x,
            grid,
            128 if stem else 640,
            shared,
            [x[:, first * CHANNELS :], dy, part],
            integers,
        )
    return parts


@_gradient_parts.register_fake
def _(dy, x):
    return _parts(x)


def _backward(ctx, dy):
    x, weight = ctx.saved_tensors
    dy, dx, dweight = dy.contiguous(memory_format=torch.channels_last_3d), None, None
    if ctx.needs_input_grad[0]:
        flipped = weight.flip(2, 3, 4).transpose(0, 1)
        dx = _convolution(dy, flipped, _packed(flipped, dy.dtype))
    if ctx.needs_input_grad[1]:
        parts = _gradient_parts(dy, x).sum(1)
        if x.shape[1] == PAIR:  # (1, kd, kh, kw and channel, output)
            dweight = parts.reshape(3, 3, 4, STEM_CHANNELS, CHANNELS)[:, :, :3].permute(
                4, 3, 0, 1, 2
            )
        else:
            dweight = (
                parts.reshape(-1, 3, 3, 2, 3, 16, CHANNELS)
                .permute(6, 0, 3, 5, 1, 4, 2)
                .reshape(weight.shape)
            )
        dweight = dweight.to(weight.dtype).contiguous(memory_format=torch.channels_last_3d)
    return dx, dweight, None


_convolution.register_autograd(
    _backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2])
)


def _packed(weight, dtype):
    """(C', C, 3, 3, 3) as (C' / 32, source, kd, kw, group of 8 inputs, 2 - kh, 32 outputs, 8), its outputs ordered for the kernel.

    A thread holds outputs 2 t, 2 t + 1 of each tile of 8; in this order they are 8 neighbours. A stem's groups are pairs along w.
    """
    weight = weight.to(dtype).flip(3).unflatten(0, (-1, 4, 4, 2))  # 32 outputs: thread, tile, 2
    if weight.shape[4] == STEM_CHANNELS:
        taps = F.pad(weight, (0, 1)).unflatten(
            -1, (2, 2)
        )  # (.., channel, kd, kh, group, kw of the group)
        return (
            taps.permute(0, 5, 7, 6, 2, 1, 3, 8, 4)
            .reshape(-1, 1, 3, 1, 2, 3, CHANNELS, PAIR)
            .contiguous()
        )
    weight = weight.unflatten(4, (-1, 4, 8))
    return (
        weight.permute(0, 4, 7, 9, 5, 8, 2, 1, 3, 6)
        .reshape(weight.shape[0], -1, 3, 3, 4, 3, CHANNELS, 8)
        .contiguous()
    )


def _output(x, packed):
    shape = (x.shape[0], packed.shape[0] * CHANNELS, *_volume(x))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _parts(x):
    _, grid = _grid(x, halo=0)
    units, sources = (3, 1) if x.shape[1] == PAIR else (18, x.shape[1] // CHANNELS)
    return torch.empty(
        sources,
        grid[0] * grid[1] * grid[2],
        units,
        3,
        16,
        CHANNELS,
        dtype=torch.float32,
        device=x.device,
    )


def _volume(x):
    return x.shape[2], x.shape[3], x.shape[4] - (x.shape[1] == PAIR)


def _grid(x, *, halo):
    """(rows along h of a block, blocks): the rows that take the fewest steps on this GPU.

    A block costs its `halo` and about 4 steps to begin and to end, and a weight gradient of its own.
    """
    batch, depth, height, width = (
        int(n) for n in (x.shape[0], *_volume(x))
    )  # a compiled network's symbolic sizes become numbers
    tiles_w, tiles_d = -(-width // WIDTH), -(-depth // TILE_D)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count

    def steps(span):
        return -(-(batch * tiles_d * tiles_w * -(-height // span)) // processors) * (
            span + halo + 4
        )

    span = min(sorted({-(-height // pieces) for pieces in range(1, height // 8 + 2)}), key=steps)
    return span, (tiles_w * -(-height // span), tiles_d, batch)


def _slot(x, planes):
    """Bytes of shared memory of a row of a block's voxels, halo included."""
    return planes * (WIDTH + 2) * min(x.shape[1], CHANNELS) * 2


def _launch(name, x, grid, threads, shared, tensors, integers):
    from cuda.bindings import driver

    kernel = _kernel(name, x.shape[1] == PAIR, x.dtype, x.device.index)
    values = (*(0 if t is None else t.data_ptr() for t in tensors), *integers)
    types = (*[ctypes.c_void_p] * len(tensors), *[ctypes.c_int] * len(integers))
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        _checked(
            driver.cuLaunchKernel(kernel, *grid, threads, 1, 1, shared, stream, (values, types), 0)
        )


@functools.cache
def _kernel(name, stem, dtype, device):
    from cuda.bindings import driver

    allowed = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    most = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN

    with torch.cuda.device(device):
        _, kernel = _checked(
            driver.cuModuleGetFunction(_module(stem, dtype, device), name.encode())
        )
        _, shared = _checked(driver.cuDeviceGetAttribute(most, device))
        _checked(
            driver.cuFuncSetAttribute(kernel, allowed, shared)
        )  # the kernel's for good, and not only this launch's
    return kernel


@functools.cache
def _module(stem, dtype, device):
    from cuda.bindings import driver, nvrtc

    source = resources.files("segmamba.models").joinpath("narrow_conv.cu").read_bytes()
    kind = {torch.bfloat16: b"bf16", torch.float16: b"f16"}[dtype]
    options = [b"--gpu-architecture=sm_90a", b"-DKIND=" + kind, b"-DSTEM=%d" % stem]
    _, program = _checked(nvrtc.nvrtcCreateProgram(source, b"narrow_conv.cu", 0, [], []))
    _checked(nvrtc.nvrtcCompileProgram(program, len(options), options))
    binary = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program))[1])
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    return _checked(driver.cuModuleLoadData(binary))[1]


def _checked(result):
    if result[0].value:
        raise RuntimeError(f"narrow_conv: {result[0].name}")
    return result
