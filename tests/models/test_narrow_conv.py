"""What surrounds the kernels of narrow_conv.cu, with stand-ins for them on the CPU.

The kernels themselves are in test_gpu.py.
"""

import copy
import types

import pytest
import torch
import torch.nn.functional as F

from segmamba.inference.fold import folded
from segmamba.models import blocks, layers, narrow_conv, narrow_conv_launch, recomputation


def convolution(x, weight, packed):
    """The kernel's layouts, read element by element.

    packed is (C' / 32, source, kd, kw, group, 2 - kh, n, 8).
    """
    tiles, sources, _, taps_w, groups, _, _, _ = packed.shape
    channels = 32 * tiles if weight is None else len(weight)
    dense = x.new_zeros(32 * tiles, 4 if taps_w == 1 else 32 * sources, 3, 3, 4)
    for n in range(32):
        output = 8 * (n % 8 // 2) + 2 * (n // 8) + n % 2
        for group in range(groups):
            for kh in range(3):
                part = packed[:, :, :, :, group, 2 - kh, n]  # (half, source, kd, kw, 8)
                if taps_w == 1:
                    dense[output::32, :, :, kh, 2 * group] = part[:, 0, :, 0, :4].movedim(1, 2)
                    dense[output::32, :, :, kh, 2 * group + 1] = part[:, 0, :, 0, 4:].movedim(1, 2)
                    continue
                for source in range(sources):
                    at = 32 * source + 8 * group
                    dense[output::32, at : at + 8, :, kh, :3] = part[:, source].movedim(3, 1)
    assert (dense[..., 3] == 0).all()
    volume = x[:, 4:, ..., :-1] if taps_w == 1 else x  # of the pairs (w - 1, w) the second
    if taps_w == 3 and sources == 2:  # the second of two tiles that overlap
        volume = torch.cat([volume[:, :32], volume[:, -32:]], 1)
    y = F.conv3d(volume, dense[..., :3], padding=1)
    y = torch.cat([y[:, :32], y[:, 32 * tiles - channels + 32 :]], 1) if tiles == 2 else y
    return y.contiguous(memory_format=torch.channels_last_3d)


def summed_convolution(x, weight, packed):
    y, sums = convolution(x, weight, packed), torch.zeros_like(narrow_conv._sums(x))
    # the sums of a sample's last block; the others have no voxels here
    sums.unflatten(0, (len(x), -1))[:, -1] = torch.stack([y, y.square()], 1).sum((3, 4, 5))
    return y, sums


def norm_gradient(dy, packed, before, factors):
    dn = convolution(dy, None, packed)
    scale, offset = factors[..., None, None, None].unbind(1)
    dn = torch.where(scale * before + offset <= 0, 0, dn)
    sums = torch.zeros_like(narrow_conv._sums(dy))
    sums.unflatten(0, (len(dy), -1))[:, -1] = torch.stack([dn, dn * before], 1).sum((3, 4, 5))
    return dn.contiguous(memory_format=torch.channels_last_3d), sums


def counted(calls):
    return lambda *inputs: calls.append(1) or summed_convolution(*inputs)


def gradient_parts(dy, x):
    all_parts, stem = torch.zeros_like(narrow_conv._parts(dy, x)), x.shape[1] == 8
    volume = x[:, 4:, ..., :-1] if stem else x
    if not stem and x.shape[1] > 32:
        volume = torch.cat([x[:, :32], x[:, -32:]], 1)
    for parts, tile in zip(all_parts, narrow_conv._tiles(dy), strict=True):
        fill_parts(parts, volume, dy[:, tile : tile + 32], stem=stem)
    return all_parts


def fill_parts(parts, volume, dy, *, stem):
    gradient = torch.nn.grad.conv3d_weight(volume, (32, volume.shape[1], 3, 3, 3), dy, padding=1)
    block = parts.shape[1] - 1
    for kd in range(3):
        for kh in range(3):
            for kw in range(3):
                tap = gradient[:, :, kd, kh, kw].t()  # (input, output)
                if stem:
                    parts[0, block, kd, kh, 4 * kw : 4 * kw + 4] = tap
                    continue
                for half in range(2):
                    parts[:, block, 2 * (3 * kd + kw) + half, kh] = tap.unflatten(0, (-1, 2, 16))[
                        :, half
                    ]


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda device: types.SimpleNamespace(multi_processor_count=132),
    )
    narrow_conv._convolution.register_kernel("cpu", convolution)
    narrow_conv._summed_convolution.register_kernel("cpu", summed_convolution)
    narrow_conv._norm_gradient.register_kernel("cpu", norm_gradient)
    narrow_conv._gradient_parts.register_kernel("cpu", gradient_parts)
    narrow_conv._convolution_relu.register_kernel(
        "cpu",
        lambda x, packed, shift: F.relu(convolution(x, None, packed) + shift[:, None, None, None]),
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("channels", "outputs"), [(4, 32), (32, 32), (64, 32), (4, 48), (48, 48)])
def test_result_and_gradients_are_those_of_the_convolution(channels, outputs, compiled):
    torch.manual_seed(0)
    inputs = (
        torch.randn(2, channels, 3, 4, 5, requires_grad=channels != 4),
        torch.randn(outputs, channels, 3, 3, 3, requires_grad=True),
    )
    run = (
        torch.compile(narrow_conv.narrow_conv, backend="aot_eager", fullgraph=True)
        if compiled
        else narrow_conv.narrow_conv
    )
    results, wanted = [], [t for t in inputs if t.requires_grad]
    for y in (F.conv3d(*inputs, padding=1), run(*inputs)):
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), wanted)])
    for want, got in zip(*results, strict=True):
        assert got.shape == want.shape and (got - want).norm() / want.norm() < 1e-5


@pytest.mark.parametrize(
    ("device", "dtype", "shape"),
    [("cpu", torch.bfloat16, (32, 32, 3, 3, 3)), ("meta", torch.float16, (32, 32, 3, 3, 3))],
)
def test_other_devices_convolve_as_torch_does(device, dtype, shape):
    assert not narrow_conv.fits(
        torch.empty(1, 32, 8, 8, 64, device=device, dtype=dtype), torch.empty(shape)
    )


@pytest.mark.parametrize(
    "sides", [(128, 128, 64), (128, 128, 128), (96, 96, 96), (16, 1, 64), (5, 33, 130)]
)
@pytest.mark.parametrize("halo", [0, 2])
def test_blocks_cover_the_volume_and_waste_less_than_a_second_wave_would(sides, halo):
    x = torch.empty(2, 32, *sides, device="meta")
    span, (across, deep, batch) = narrow_conv._grid(x, halo=halo)
    tiles_w = -(-sides[2] // 64)
    assert batch == 2 and 4 * deep >= sides[0] > 4 * (deep - 1)
    assert (
        across % tiles_w == 0
        and across // tiles_w * span >= sides[1] > (across // tiles_w - 1) * span
    )
    if sides == (128, 128, 64):
        assert across * deep * batch <= 132


@pytest.mark.parametrize("channels", [4, 32])
def test_a_folded_norm_is_added_by_the_narrow_convolution(channels, monkeypatch):
    torch.manual_seed(0)
    block = blocks.ConvBlock(channels, 32, "batch").train()
    x = torch.randn(2, channels, 4, 6, 8)
    for norm in (block.norm1, block.norm2):
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        torch.nn.init.normal_(norm.bias)
    block(x)  # running statistics that are not the initial ones
    block.eval()
    with torch.no_grad():
        want, block, calls = block(x), folded(block, "cuda"), []
        monkeypatch.setattr(layers.Conv, "narrow_input", lambda conv, x: calls.append(conv) or x)
        got = block(x)
    assert len(calls) == 2 and (got - want).norm() / want.norm() < 1e-5


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("channels", [4, 64])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_compiled_block_takes_its_norms_statistics_from_the_convolution(
    norm, channels, recomputed, monkeypatch
):
    torch.manual_seed(0)
    block = blocks.ConvBlock(channels, 32, norm).train()
    for layer in (block.norm1, block.norm2):
        torch.nn.init.uniform_(layer.weight, 0.5, 2.0)
        torch.nn.init.normal_(layer.bias)
    x, found = torch.randn(2, channels, 4, 6, 8, requires_grad=channels != 4), []
    for compiled in (False, True):
        one, calls = copy.deepcopy(block), []
        if compiled:
            monkeypatch.setattr(layers.Conv, "narrow_input", lambda conv, x: x)
            narrow_conv._summed_convolution.register_kernel("cpu", counted(calls))

        def run(x, one=one):
            return recomputation.checkpointed(one, x) if recomputed else one(x)

        if compiled:
            torch.compiler.reset()
            run = torch.compile(run, backend="aot_eager", fullgraph=True)
        y = run(x)
        wanted = [*one.parameters(), *([x] if channels != 4 else [])]
        gradients = torch.autograd.grad((y * torch.linspace(-1, 1, 8)).sum(), wanted)
        found.append([y.detach(), *gradients, *(b.float() for b in one.buffers())])
        assert bool(calls) == compiled
    for want, got in zip(*found, strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert (got - want).norm() <= 1e-5 * want.norm()


def test_kernels_that_were_compiled_before_are_found_on_the_disk(tmp_path, monkeypatch):
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs torch's CUDA wheels")
    pytest.importorskip("triton", reason="needs torch's CUDA wheels")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled, compile_program = [], nvrtc.nvrtcCompileProgram
    monkeypatch.setattr(
        nvrtc,
        "nvrtcCompileProgram",
        lambda *given: compiled.append(given) or compile_program(*given),
    )
    source, options = b'extern "C" __global__ void f() {}', (b"--gpu-architecture=sm_90a",)
    try:
        first = narrow_conv_launch._binary(source, options)
    except RuntimeError as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")
    assert narrow_conv_launch._binary(source, options) == first and len(compiled) == 1
    narrow_conv_launch._binary(source, (*options, b"-DSTEM=1"))
    assert len(compiled) == 2
