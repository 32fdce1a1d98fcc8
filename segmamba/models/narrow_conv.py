"""3x3x3 convolutions from 32 or 64 to 32 channels for Hopper GPUs, in half precision: cuDNN reaches a quarter of the GPU's rate there.

The kernels are in narrow_conv.cu, compiled when they first run by NVRTC, which torch's CUDA wheels for Linux bring with cuda-bindings.

Legend: B batch, C channels, (D, H, W) the volume. Tensors are channels-last, sums fp32.
"""

import ctypes
import functools
import importlib.util
from importlib import resources

import torch
from torch import Tensor

CHANNELS, TAPS = 32, 27
WIDTH, TILE_D = 64, 4  # voxels along w and d of a block; these and the bytes of shared memory are those of narrow_conv.cu
PLANE = (WIDTH + 2) * 64
INPUT_SLOT, OUTPUT_SLOT, WEIGHTS = (TILE_D + 2) * PLANE, TILE_D * PLANE, TAPS * CHANNELS * 64


def fits(x, weight):
    """Whether `narrow_conv` takes these: on a Hopper GPU, half precision, 32 or 64 to 32 channels, a width that fills its tiles."""
    out_channels, in_channels, *kernel = weight.shape
    if not x.is_cuda or x.dtype not in (torch.bfloat16, torch.float16) or kernel != [3, 3, 3] or out_channels != CHANNELS:
        return False
    depth, height, width = x.shape[2:]
    filled = width / (-(-width // WIDTH) * WIDTH)
    return in_channels in (CHANNELS, 2 * CHANNELS) and filled >= 0.75 and 64 * depth * height * width < 2**31 and _available(x.device.index or 0)


@torch.compiler.assume_constant_result
def _available(device):
    return torch.cuda.get_device_capability(device) == (9, 0) and importlib.util.find_spec("cuda.bindings") is not None


@torch.library.custom_op("segmamba::narrow_conv", mutates_args=())
def narrow_conv(x: Tensor, weight: Tensor) -> Tensor:
    """The zero-padded convolution, (B, C, D, H, W) half precision with (32, C, 3, 3, 3) of any dtype to (B, 32, D, H, W) as x."""
    return _convolve(x, weight)


@narrow_conv.register_fake
def _(x, weight):
    return _volume(x, CHANNELS)


@torch.library.custom_op("segmamba::narrow_conv_input_gradient", mutates_args=())
def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    return _convolve(dy, weight.flip(2, 3, 4).transpose(0, 1))


@input_gradient.register_fake
def _(dy, weight):
    return _volume(dy, weight.shape[1])


@torch.library.custom_op("segmamba::narrow_conv_weight_gradient", mutates_args=())
def weight_gradient(dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """(32, C, 3, 3, 3) in the dtype of the weight. The order of every sum is fixed."""
    x, dy = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, dy))
    span, grid = _grid(x, halo=0)
    shared = 3 * INPUT_SLOT + 5 * OUTPUT_SLOT
    channels, parts = x.shape[1], []
    for first in range(0, channels, CHANNELS):
        part = torch.empty(grid[0] * grid[1] * grid[2], 3, 3, 3, CHANNELS, CHANNELS, dtype=torch.float32, device=x.device)
        _launch("weight_gradient", 1, x, grid, 640, shared, [x[:, first:], dy, part], [*x.shape[2:], channels, CHANNELS, span])
        parts.append(part.sum(0).permute(4, 3, 0, 2, 1))  # (kd, kw, kh, in, out) to (out, in, kd, kh, kw)
    return torch.cat(parts, dim=1).to(weight.dtype).contiguous()


@weight_gradient.register_fake
def _(dy, x, weight):
    return weight.new_empty(weight.shape)


def _backward(ctx, dy):
    x, weight = ctx.saved_tensors
    dx = input_gradient(dy, weight) if ctx.needs_input_grad[0] else None
    return dx, weight_gradient(dy, x, weight) if ctx.needs_input_grad[1] else None


narrow_conv.register_autograd(_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


def _convolve(x, weight):
    x, sources = x.contiguous(memory_format=torch.channels_last_3d), x.shape[1] // CHANNELS
    span, grid = _grid(x, halo=2)
    shared = sources * WEIGHTS + 4 * INPUT_SLOT
    y = _volume(x, weight.shape[0])
    for first in range(0, weight.shape[0], CHANNELS):
        packed = _packed(weight[first : first + CHANNELS].to(x.dtype))
        inputs = [x, x[:, CHANNELS * (sources - 1) :], packed, y[:, first:]]
        _launch("convolution", sources, x, grid, 512, shared, inputs, [*x.shape[2:], x.shape[1], y.shape[1], span])
    return y


def _packed(weight):
    """(32, C, 3, 3, 3) as [source][kd][kw][group of 8 inputs][2 - kh][output][8]; outputs in an order that gives a thread 8 neighbours."""
    parts = weight.flip(3).reshape(4, 4, 2, -1, 4, 8, 3, 3, 3)  # output = 8 thread + 2 tile + half; source, group, 8; kd, kh, kw
    return parts.permute(3, 6, 8, 4, 7, 1, 0, 2, 5).contiguous()


def _volume(x, channels):
    shape = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


def _grid(x, *, halo):
    """(rows along h of a block, blocks): the rows that take the fewest steps on this GPU, a block's `halo` included."""
    batch, _, depth, height, width = x.shape
    tiles_w, tiles_d = -(-width // WIDTH), -(-depth // TILE_D)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count

    def steps(span):
        return -(-(batch * tiles_d * tiles_w * -(-height // span)) // processors) * (span + halo)

    span = min({-(-height // pieces) for pieces in range(1, height // 8 + 2)}, key=steps)
    return span, (tiles_w * -(-height // span), tiles_d, batch)


def _launch(name, sources, like, grid, threads, shared, tensors, integers):
    from cuda.bindings import driver

    kernel = _kernel(name, sources, like.dtype, like.device.index, shared)
    values = (*(t.data_ptr() for t in tensors), *integers)
    types = (*[ctypes.c_void_p] * len(tensors), *[ctypes.c_int] * len(integers))
    stream = torch.cuda.current_stream(like.device).cuda_stream
    _check(driver.cuLaunchKernel(kernel, *grid, threads, 1, 1, shared, stream, (values, types), 0))


@functools.cache
def _kernel(name, sources, dtype, device, shared):
    from cuda.bindings import driver

    with torch.cuda.device(device):
        _, kernel = _check(driver.cuModuleGetFunction(_module(sources, dtype, device), name.encode()))
        _check(driver.cuFuncSetAttribute(kernel, driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared))
    return kernel


@functools.cache
def _module(sources, dtype, device):
    from cuda.bindings import driver, nvrtc

    source = resources.files("segmamba.models").joinpath("narrow_conv.cu").read_bytes()
    kind = {torch.bfloat16: b"bf16", torch.float16: b"f16"}[dtype]
    options = [b"--gpu-architecture=sm_90a", b"-DKIND=" + kind, b"-DSOURCES=%d" % sources]
    _, program = _check(nvrtc.nvrtcCreateProgram(source, b"narrow_conv.cu", 0, [], []))
    _check(nvrtc.nvrtcCompileProgram(program, len(options), options))
    binary = bytes(_check(nvrtc.nvrtcGetCUBINSize(program))[1])
    _check(nvrtc.nvrtcGetCUBIN(program, binary))
    return _check(driver.cuModuleLoadData(binary))[1]


def _check(result):
    if result[0].value:
        raise RuntimeError(f"narrow_conv: {result[0].name}")
    return result
