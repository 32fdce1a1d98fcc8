"""The kernels of cpu_kernels/ compute what torch computes in float64, and torch serves without."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from segmamba.config import preset
from segmamba.inference.fold import folded
from segmamba.models import build_model, cpu_library, narrow_cpu
from segmamba.models.blocks import ConvBlock, Downsample
from segmamba.models.layers import TransposedConv
from tests.models.kernels import needs_kernels, threads

SIDES = (6, 5, 32)
"""H is odd and no multiple of the rows that a kernel holds; W is two registers of 16 lanes."""


def volume(channels, sides=SIDES, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, *sides, generator=generator).requires_grad_()


def relative_errors(function, reference, inputs):
    """The errors of a function's result and gradients against those of a float64 reference."""
    exact = [t.detach().double().requires_grad_() for t in inputs]
    got, want = function(*inputs), reference(*exact)
    weight = torch.cos(torch.arange(want.numel(), dtype=torch.float64)).reshape(want.shape)
    gradients = torch.autograd.grad((got * weight.float()).sum(), inputs)
    wanted = torch.autograd.grad((want * weight).sum(), exact)
    pairs = zip((got, *gradients), (want, *wanted), strict=True)
    return [float(((g.double() - w).norm() / w.norm()).detach()) for g, w in pairs]


@needs_kernels
@pytest.mark.parametrize(("ins", "outs"), [(4, 8), (8, 8), (16, 8), (3, 5), (1, 1), (9, 16)])
@pytest.mark.parametrize("sides", [SIDES, (1, 1, 16), (2, 13, 48)])
def test_convolution_and_its_gradients_equal_torchs_in_float64(ins, outs, sides):
    x, weight = volume(ins, sides), torch.randn(outs, ins, 3, 3, 3, requires_grad=True)
    errors = relative_errors(
        narrow_cpu.convolve, lambda x, w: F.conv3d(x, w, padding=1), [x, weight]
    )
    assert max(errors) < 2e-6, errors  # as Winograd rounds where multiply and add are two steps


@needs_kernels
@pytest.mark.parametrize(("ins", "outs"), [(16, 8), (8, 4), (4, 8), (3, 5)])
def test_pointwise_convolution_and_its_gradients_equal_torchs_in_float64(ins, outs):
    weight = torch.randn(outs, ins, 1, 1, 1, requires_grad=True)
    bias = torch.randn(outs, requires_grad=True)
    errors = relative_errors(narrow_cpu.mix, F.conv3d, [volume(ins), weight, bias])
    assert max(errors) < 1e-5, errors


@needs_kernels
@pytest.mark.parametrize("samples", [1, 2], ids=["instance", "batch"])
def test_norm_and_relu_and_their_gradients_equal_torchs_in_float64(samples):
    x = (volume(3) * 2 + 5).detach().requires_grad_()
    weight, bias = torch.tensor([1.0, 0.5, -2.0]), torch.tensor([0.0, 0.3, -0.1])
    inputs = [x, weight.requires_grad_(), bias.requires_grad_()]

    def reference(x, weight, bias):
        groups = [
            F.batch_norm(g, None, None, weight, bias, training=True) for g in x.split(samples)
        ]
        return F.relu(torch.cat(groups))

    errors = relative_errors(
        lambda *args: narrow_cpu.norm_relu(*args, eps=1e-5, samples=samples)[0], reference, inputs
    )
    assert max(errors) < 1e-5, errors


@needs_kernels
def test_statistics_of_a_volume_far_from_zero_lose_nothing():
    x = (volume(2) + 1000).detach()
    _, mean, variance = narrow_cpu.norm_relu(x, torch.ones(2), torch.zeros(2), eps=0, samples=2)
    exact = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(mean[0], exact.mean(1), rtol=1e-7)
    assert torch.allclose(variance[0], exact.var(1, correction=0), rtol=1e-4)


@needs_kernels
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_block_and_its_running_statistics_equal_torchs(norm):
    torch.manual_seed(0)
    ours, exact = ConvBlock(4, 8, norm), ConvBlock(4, 8, norm).double()
    exact.load_state_dict(ours.state_dict())
    x = volume(4)
    got, want = ours(x), exact(x.double())
    assert (got - want).abs().max() < 1e-5
    for (name, mine), theirs in zip(ours.named_buffers(), exact.buffers(), strict=True):
        assert torch.allclose(mine.double(), theirs.double(), rtol=1e-5, atol=1e-6), name
    with torch.no_grad():
        assert (ours.eval()(x) - exact.eval()(x.double())).abs().max() < 1e-5


@needs_kernels
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("ins", "outs"), [(4, 8), (8, 8), (16, 8), (3, 5), (8, 12)])
@pytest.mark.parametrize("sides", [SIDES, (1, 3, 16), (4, 9, 48)])
def test_a_blocks_gradients_equal_torchs_in_float64(norm, ins, outs, sides):
    torch.manual_seed(0)
    ours, exact = ConvBlock(ins, outs, norm), ConvBlock(ins, outs, norm).double()
    exact.load_state_dict(ours.state_dict())
    x = volume(ins, sides)
    assert narrow_cpu.fits(x, outs)
    weight = torch.randn(2, outs, *sides)
    wanted_of = x.detach().double().requires_grad_()
    mine = torch.autograd.grad((ours(x) * weight).sum(), [x, *ours.parameters()])
    theirs = torch.autograd.grad(
        (exact(wanted_of) * weight).sum(), [wanted_of, *exact.parameters()]
    )
    for got, want in zip(mine, theirs, strict=True):
        assert got.shape == want.shape
        # A ReLU's input near 0 may have the other sign in fp32.
        assert (got - want).norm() < 1e-3 * want.norm()
    assert ours(x.detach().requires_grad_(False)).grad_fn is not None


@needs_kernels
@pytest.mark.parametrize("ins", [8, 4])
def test_a_folded_block_predicts_as_in_float64(ins):
    torch.manual_seed(0)
    block, x = ConvBlock(ins, 8, "batch"), volume(ins).detach()
    block(3 * x + 1)  # running statistics
    want = block.double().eval()(x.double())
    for ready in (block.float(), folded(block, "cpu")):
        with torch.no_grad():
            assert (ready(x) - want).abs().max() < 1e-5


@needs_kernels
def test_a_block_computes_the_same_bits_again_and_in_several_threads_the_same_values():
    torch.manual_seed(0)
    block, x = ConvBlock(4, 8, "batch"), volume(4, (7, 6, 16))

    def once():
        y = block(x)
        return y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])

    first, again = once(), once()
    assert all(map(torch.equal, first, again))
    with threads(3):
        three = once()
    assert torch.equal(first[0], three[0])
    assert all((a - b).norm() < 1e-5 * a.norm() for a, b in zip(first, three, strict=True))


@needs_kernels
def test_a_block_keeps_what_is_not_finite():
    block, x = ConvBlock(4, 8, "batch"), volume(4).detach()
    x[0, 0, 2, 2, 3] = torch.nan
    y = block(x)
    assert y.isnan().any()
    (gradient,) = torch.autograd.grad(y.sum(), [block.conv1.weight])
    assert gradient.isnan().any()


SANITIZED = """
import torch
torch.set_num_threads(2)
from segmamba.models import narrow_cpu, scan_native
from segmamba.models.blocks import ConvBlock, Downsample
from segmamba.models.layers import TransposedConv
from segmamba.models.cpu_library import find_library
from segmamba.training import loss_cpu
assert find_library()[0] is not None, find_library()[1]
for sides in ((1, 1, 16), (5, 6, 32), (2, 7, 48)):
    for ins, outs in ((4, 8), (8, 8), (3, 5), (16, 8), (8, 12)):
        x = torch.randn(2, ins, *sides, requires_grad=True)
        block = ConvBlock(ins, outs, "batch")
        block(x).sum().backward()
        with torch.no_grad():
            block.eval()(x)
    logits = torch.randn(2, 4, *sides, requires_grad=True)
    label = torch.randint(0, 4, (2, *sides), dtype=torch.uint8)
    loss_cpu.dice_ce(logits, label, dice_weight=1, ce_weight=1, smooth=1).backward()
for sides in ((4, 6, 32), (2, 4, 16), (6, 8, 48)):
    for small in (16, 5):
        x = torch.randn(2, 8, *sides, requires_grad=True)
        TransposedConv(small, 3)(Downsample(8, small, "batch")(x)).sum().backward()
print("sound")
"""


@needs_kernels
@pytest.mark.slow
def test_the_kernels_read_and_write_nothing_beyond_their_tensors(tmp_path):
    compiler = cpu_library.find_library()[1]
    sanitizer = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not os.path.isabs(sanitizer):
        pytest.skip(f"{compiler} has no address sanitizer")
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED],
        env=os.environ
        | {
            "CC": f"{compiler} -fsanitize=address -fno-omit-frame-pointer",
            "LD_PRELOAD": sanitizer,
            "ASAN_OPTIONS": "detect_leaks=0",
            "XDG_CACHE_HOME": str(tmp_path),
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "sound\n", done.stderr[-2000:]


SMALL_SIDES = pytest.mark.parametrize("sides", [(2, 3, 16), (3, 2, 8), (1, 4, 24)])
"""Of 16 lanes 8 voxels fill half, 24 one and a half: a vector then holds parts of two rows."""


@needs_kernels
@SMALL_SIDES
@pytest.mark.parametrize(("larges", "smalls"), [(8, 16), (3, 5), (1, 20)])
def test_halving_and_its_gradients_equal_torchs_in_float64(sides, larges, smalls):
    x = volume(larges, tuple(2 * side for side in sides))
    weight = torch.randn(smalls, larges, 2, 2, 2, requires_grad=True)
    bias = torch.randn(smalls, requires_grad=True)
    assert narrow_cpu.halves(x)
    errors = relative_errors(
        narrow_cpu.halve, lambda x, w, b: F.conv3d(x, w, b, stride=2), [x, weight, bias]
    )
    assert max(errors) < 1e-5, errors


@needs_kernels
@SMALL_SIDES
@pytest.mark.parametrize(("smalls", "larges"), [(16, 8), (3, 5), (20, 1)])
def test_doubling_and_its_gradients_equal_torchs_in_float64(sides, smalls, larges):
    x, bias = volume(smalls, sides), torch.randn(larges, requires_grad=True)
    weight = torch.randn(smalls, larges, 2, 2, 2, requires_grad=True)
    assert narrow_cpu.fits_doubled(x, larges)
    errors = relative_errors(
        narrow_cpu.double, lambda x, w, b: F.conv_transpose3d(x, w, b, 2), [x, weight, bias]
    )
    assert max(errors) < 1e-5, errors


@needs_kernels
def test_the_gradient_of_a_doubled_volume_may_be_a_part_of_a_wider_one():
    x, weight = volume(4, (2, 2, 16)), torch.randn(4, 3, 2, 2, 2, requires_grad=True)
    skip = volume(2, (4, 4, 32), seed=1)
    merged = torch.cat([narrow_cpu.double(x, weight, None), skip], 1)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    wanted = torch.cat([F.conv_transpose3d(*exact, stride=2), skip.double()], 1)
    mine = torch.autograd.grad(merged.sin().sum(), (x, weight))
    theirs = torch.autograd.grad(wanted.sin().sum(), exact)
    assert all((a - b).norm() < 1e-5 * b.norm() for a, b in zip(mine, theirs, strict=True))


@needs_kernels
def test_halving_and_doubling_keep_what_is_not_finite():
    x = volume(2, (4, 4, 32)).detach()
    x[0, 1, 2, 3, 5] = torch.nan
    small = narrow_cpu.halve(x, torch.randn(3, 2, 2, 2, 2), None)
    assert small.isnan().nonzero().tolist() == [[0, c, 1, 1, 2] for c in range(3)]
    large = narrow_cpu.double(small, torch.randn(3, 1, 2, 2, 2), None)
    assert large.isnan().sum() == 8


@needs_kernels
def test_modules_that_halve_and_double_equal_torchs():
    torch.manual_seed(0)
    for module, exact, x in (
        (Downsample(8, 16, "batch"), Downsample(8, 16, "batch"), volume(8, (4, 6, 32))),
        (Downsample(8, 24, "batch"), Downsample(8, 24, "batch"), volume(8, (4, 8, 16))),
        (TransposedConv(16, 8), TransposedConv(16, 8), volume(16, (2, 3, 16))),
    ):
        exact = exact.double()
        exact.load_state_dict(module.state_dict())
        got, want = module(x), exact(x.detach().double())
        assert (got - want).abs().max() < 1e-5
        got.square().sum().backward()
        want.square().sum().backward()
        for mine, theirs in zip(module.parameters(), exact.parameters(), strict=True):
            assert (mine.grad - theirs.grad).norm() < 1e-4 * theirs.grad.norm().clamp_min(1)


@needs_kernels
@pytest.mark.parametrize("sides", [(5, 4, 16), (4, 3, 16), (1, 1, 16)])
def test_volumes_of_odd_sides_are_halved_as_torch_halves_them(sides):
    torch.manual_seed(0)
    ours = Downsample(3, 5, "instance")[0]
    x = volume(3, sides)
    if min(sides) < 2:
        with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
            ours(x)
        return
    got, want = ours(x), F.conv3d(x.double(), ours.weight.double(), stride=2)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1e-5


@needs_kernels
def test_a_volume_that_is_not_finite_stays_so():
    x = volume(2).detach()
    x[0, 0, 0, 0, 3] = torch.nan
    x.requires_grad_()
    y, _, _ = narrow_cpu.norm_relu(x, torch.ones(2), torch.zeros(2), eps=1e-5, samples=2)
    assert y[:, 0].isnan().all() and y[:, 1].isfinite().all()
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx[:, 0].isnan().all()


@needs_kernels
def test_weights_of_another_precision_are_never_read_as_fp32():
    for block in (ConvBlock(4, 8, "batch").double(), ConvBlock(4, 8, "batch").bfloat16()):
        with pytest.raises((TypeError, RuntimeError), match=r"weights of|[Ee]xpected|dtype|type"):
            block(volume(4))
    half = ConvBlock(4, 8, "instance").bfloat16()
    for norm in (half.norm1, half.norm2):
        norm.float()
    with torch.autocast("cpu", torch.bfloat16):
        got = half(volume(4))
    want = half.float()(volume(4))
    assert (got.float() - want).abs().max() < 0.1


@needs_kernels
def test_several_threads_give_the_same_to_rounding():
    x, weight = volume(8), torch.randn(8, 8, 3, 3, 3, requires_grad=True)
    one = torch.autograd.grad(narrow_cpu.convolve(x, weight).square().sum(), (x, weight))
    with threads(3):
        three = torch.autograd.grad(narrow_cpu.convolve(x, weight).square().sum(), (x, weight))
    assert all((a - b).norm() < 1e-6 * a.norm() for a, b in zip(one, three, strict=True))


@needs_kernels
def test_the_demos_network_trains_as_without_the_kernels():
    config = preset("demo").changed({"model.classes": "glioma"}).model
    torch.manual_seed(0)
    network, x = build_model(config), volume(4, (16, 16, 32)).detach()
    exact = build_model(config).double()
    exact.load_state_dict(network.state_dict())
    for model, image in ((network, x), (exact, x.double())):
        model(image).sin().mean().backward()
    for (name, mine), theirs in zip(network.named_parameters(), exact.parameters(), strict=True):
        error = (mine.grad - theirs.grad).norm() / theirs.grad.norm().clamp_min(1e-4)
        assert error < 1e-2, f"{name}: {error:.1e}"


def without_kernels(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "/nowhere", "PYTHONPATH": ":".join(sys.path)} | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


CONVOLVES = """
import torch
from segmamba.models.blocks import ConvBlock
from segmamba.models.cpu_library import find_library
print(find_library()[1], ConvBlock(4, 8, "batch")(torch.ones(1, 4, 4, 4, 16)).shape[1])
"""


def test_a_machine_without_a_compiler_computes_by_torch_and_says_why():
    assert without_kernels(CONVOLVES) == "no C compiler found (cc or gcc) 8\n"


def test_a_compiler_that_fails_is_named_with_its_reason(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'error: no such option' >&2\nexit 3\n")
    compiler.chmod(0o755)
    said = without_kernels(CONVOLVES, CC=str(compiler))
    assert said == f"{compiler} does not compile the kernels: error: no such option 8\n"


@needs_kernels
def test_a_folder_that_cannot_be_written_is_no_obstacle(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    library, compiler = cpu_library.find_library.__wrapped__()
    assert library is not None and library.lanes() in (4, 8, 16), compiler


def kept_library(monkeypatch, cache):
    """The library in a new cache folder, and when it was written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert cpu_library.find_library.__wrapped__()[0] is not None
    (library,) = (cache / "segmamba").glob("*.so")
    return library, library.stat().st_mtime_ns


@needs_kernels
def test_the_library_is_compiled_once_for_a_machine(monkeypatch, tmp_path):
    umask = os.umask(0o002)  # Debian's, where each user has a group
    library, made = kept_library(monkeypatch, tmp_path)
    os.umask(umask)
    monkeypatch.setattr(cpu_library.tempfile, "TemporaryDirectory", None)  # nothing is compiled
    assert cpu_library.find_library.__wrapped__()[0] is not None
    assert library.stat().st_mtime_ns == made


@needs_kernels
@pytest.mark.parametrize("harm", ["cut", "garbage", "no digest"])
def test_a_damaged_library_is_compiled_again(monkeypatch, tmp_path, harm):
    library, _ = kept_library(monkeypatch, tmp_path)
    content = library.read_bytes()
    if harm == "no digest":
        library.with_suffix(".sha256").unlink()
    else:
        library.unlink()  # this process has it in memory
        library.write_bytes(content[: len(content) // 2] if harm == "cut" else b"garbage")
        library.chmod(0o644)
    loaded, compiler = cpu_library.find_library.__wrapped__()
    assert loaded is not None and loaded.lanes() in (4, 8, 16), compiler
    assert library.read_bytes() == content and cpu_library._is_whole(library)


@needs_kernels
@pytest.mark.parametrize("writable", ["library", "folder"])
def test_a_library_that_others_can_write_is_not_loaded(monkeypatch, tmp_path, writable):
    library, _ = kept_library(monkeypatch, tmp_path)
    loaded = []
    load = cpu_library.ctypes.CDLL
    monkeypatch.setattr(cpu_library.ctypes, "CDLL", lambda path: loaded.append(path) or load(path))
    (library if writable == "library" else library.parent).chmod(0o777)
    assert cpu_library.find_library.__wrapped__()[0] is not None
    assert loaded and str(library) not in loaded


@needs_kernels
def test_a_library_of_another_user_is_not_loaded(monkeypatch, tmp_path):
    library, _ = kept_library(monkeypatch, tmp_path)
    monkeypatch.setattr(cpu_library.os, "geteuid", lambda: library.stat().st_uid + 1)
    assert not cpu_library._is_whole(library)
    assert cpu_library._cache_folder() is None
    assert cpu_library.find_library.__wrapped__()[0] is not None


@needs_kernels
def test_a_user_without_a_home_has_the_kernels_too(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cpu_library.Path, "home", no_home)
    assert cpu_library.find_library.__wrapped__()[0] is not None


@needs_kernels
def test_a_compiler_with_options_is_taken_as_such(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "cc -O2")
    library, compiler = cpu_library.find_library.__wrapped__()
    assert library is not None, compiler
