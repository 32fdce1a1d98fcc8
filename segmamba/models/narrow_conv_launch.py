"""Compiling and launching the kernels of narrow_conv.cu.

They are compiled when they first run by NVRTC, which torch's CUDA wheels for Linux bring with
cuda-bindings and Triton, and kept in Triton's cache.
"""

import contextlib
import ctypes
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BINARY = "narrow_conv.cubin"
"""What the compiled file is called there."""


@dataclass(frozen=True)
class LaunchShape:
    """How many blocks and threads run, and what a block shares."""

    grid: tuple[int, int, int]
    threads: int
    """Threads of a block."""
    shared_bytes: int
    """Shared memory of a block."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of narrow_conv.cu, compiled for one kind of input."""

    name: str
    stem: bool
    """Whether the input has 4 channels, as pairs of voxels."""
    dtype: torch.dtype
    """bfloat16 or float16."""
    device: torch.device

    def launch(
        self, shape: LaunchShape, tensors: Sequence[Tensor | None], integers: Sequence[int]
    ) -> None:
        """Run the kernel in the current stream.

        Args:
            shape: Blocks, threads and shared memory.
            tensors: The kernel's pointers, in order; None is the null pointer.
            integers: The kernel's numbers, in order, behind the pointers.

        Raises:
            RuntimeError: CUDA refuses.
        """
        from cuda.bindings import driver

        function = _function(self)
        values = (*(0 if t is None else t.data_ptr() for t in tensors), *integers)
        types = (*[ctypes.c_void_p] * len(tensors), *[ctypes.c_int] * len(integers))
        block = (shape.threads, 1, 1)
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            _checked(
                driver.cuLaunchKernel(
                    function, *shape.grid, *block, shape.shared_bytes, stream, (values, types), 0
                )
            )


@functools.cache
def _function(kernel: Kernel) -> Any:
    """The compiled kernel, allowed all the shared memory of the GPU for good."""
    from cuda.bindings import driver

    allowed = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    most = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    module = _module(kernel.stem, kernel.dtype, kernel.device)
    with torch.cuda.device(kernel.device):
        _, function = _checked(driver.cuModuleGetFunction(module, kernel.name.encode()))
        _, shared_bytes = _checked(driver.cuDeviceGetAttribute(most, kernel.device.index))
        _checked(driver.cuFuncSetAttribute(function, allowed, shared_bytes))
    return function


@functools.cache
def _module(stem: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """narrow_conv.cu, compiled and loaded on a device."""
    from cuda.bindings import driver

    source = resources.files("segmamba.models").joinpath("narrow_conv.cu").read_bytes()
    kind = {torch.bfloat16: b"bf16", torch.float16: b"f16"}[dtype]
    options = (b"--gpu-architecture=sm_90a", b"-DKIND=" + kind, b"-DSTEM=%d" % stem)
    with torch.cuda.device(device):
        return _checked(driver.cuModuleLoadData(_binary(source, options)))[1]


def _binary(source: bytes, options: Sequence[bytes]) -> bytes:
    """Compile a file of CUDA, or find what it was compiled to in Triton's cache on the disk."""
    from cuda.bindings import nvrtc
    from triton.runtime.cache import get_cache_manager

    version = b"%d.%d" % _checked(nvrtc.nvrtcVersion())[1:]
    known = hashlib.sha256(b"\0".join([source, *options, version])).hexdigest()
    kept = get_cache_manager(known)
    if file := kept.get_file(BINARY):
        return Path(file).read_bytes()
    _, program = _checked(nvrtc.nvrtcCreateProgram(source, b"narrow_conv.cu", 0, [], []))
    _checked(nvrtc.nvrtcCompileProgram(program, len(options), list(options)))
    binary = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program))[1])
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    with contextlib.suppress(
        OSError
    ):  # a folder that is full or read-only: compile again next time
        kept.put(binary, BINARY)
    return binary


def _checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a function of cuda-bindings returned; its first item is the error code."""
    if result[0].value:
        raise RuntimeError(f"narrow_conv: {result[0].name}")
    return result
