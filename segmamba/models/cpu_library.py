"""The kernels of cpu_kernels/: compiled when they are first asked for, kept, and run in threads.

The machine's own C compiler takes less than a second, once for a machine: the library is kept in
the user's cache folder, by its source, compiler and processor. It is loaded from there only where
this user alone can write it. A container has it compiled beforehand (cpu_build.py).
Without either, torch's kernels serve, which are slower for narrow volumes and for scans; results
then differ in the last bits.
"""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from segmamba.files import write_bytes
from segmamba.leftovers import folder_beside
from segmamba.models.cpu_prebuilt import prebuilt_library

R = TypeVar("R")
OFF = "SEGMAMBA_CPU_KERNELS"
"""The environment variable that, set to 0, leaves everything to torch."""
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
HERE = "-march=native"
COMPILE_LIMIT_S = 120.0
CPUINFO = Path("/proc/cpuinfo")


def cpu_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where torch's serve."""
    return find_library()[0]


@functools.cache
def find_library() -> tuple[ctypes.CDLL | None, str]:
    """Load the kernels, and compile them first where that was not done yet.

    Returns:
        The library, or None where there is none; and the compiler or the library's file, or the
        reason in words.
    """
    if os.environ.get(OFF) == "0":
        return None, f"{OFF}=0"
    if prebuilt := prebuilt_library(_features(), digest_of(kernel_sources())):
        with contextlib.suppress(OSError):  # it is of another system's C library
            return ctypes.CDLL(str(prebuilt)), str(prebuilt)
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler found (cc or gcc)"
    try:
        return _loaded(compiler), compiler
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[0]
        return None, f"{compiler} does not compile the kernels: {reason}"
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return None, f"{compiler}: {error}"


def _loaded(compiler: str) -> ctypes.CDLL:
    """The library from the user's cache folder; else a new one, which is kept there if possible."""
    command = shlex.split(compiler)
    sources = kernel_sources()
    compiled_by = *FLAGS, HERE, _output_of(*command, "--version"), _processor()
    made_of = "\n".join([*itertools.chain(*sources.items()), *compiled_by])
    name = f"cpu_kernels_{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    kept = _cache_folder()
    if kept and _is_whole(kept / name):
        with contextlib.suppress(OSError):  # it cannot be loaded from there
            return ctypes.CDLL(str(kept / name))
    with folder_beside(Path(tempfile.gettempdir()) / "segmamba-kernels") as folder:
        built = compile_kernels(command, sources, HERE, Path(folder) / name)
        if kept:
            with contextlib.suppress(OSError):  # a full disk, for example: the next process tries
                _keep(built.read_bytes(), kept / name)  # others may be doing the same
        return ctypes.CDLL(str(built))  # it stays in memory when its file goes


def compile_kernels(
    command: list[str], sources: dict[str, str], target: str, library: Path
) -> Path:
    """Compile the kernels.

    Args:
        command: The C compiler.
        sources: As `kernel_sources` returns them; they are written beside the library.
        target: The option that says for which processors.
        library: The file to write.

    Returns:
        The library.

    Raises:
        OSError: There is no such compiler, or the folder cannot be written.
        subprocess.CalledProcessError: The compiler refuses.
    """
    for file, text in sources.items():
        library.with_name(file).write_text(text, encoding="utf-8")
    units = [str(library.with_name(file)) for file in sources if file.endswith(".c")]
    _output_of(*command, *FLAGS, target, "-o", str(library), *units)
    return library


def digest_of(sources: dict[str, str]) -> str:
    """Digest the sources, by which a prebuilt library is found."""
    return hashlib.sha256("\n".join(itertools.chain(*sources.items())).encode()).hexdigest()


def kernel_sources() -> dict[str, str]:
    """The text of each file of cpu_kernels/, in the order of their names."""
    folder = resources.files("segmamba.models").joinpath("cpu_kernels")
    files = [file for file in folder.iterdir() if file.name.endswith((".c", ".h"))]
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
    }


def _output_of(*command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=COMPILE_LIMIT_S,
    ).stdout


def _keep(content: bytes, library: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    for file, held in ((library, content), (_digest_file(library), digest.encode())):
        write_bytes(file, held).chmod(0o600)  # the user's umask may let a group write


def _is_whole(library: Path) -> bool:
    """Whether a kept library is as it was written, and by nobody else.

    What is loaded runs with this user's rights, and a part of a file would end the process.
    """
    digest = _digest_file(library)
    try:
        if not all(map(_is_ours_alone, (library, digest))):
            return False
        return hashlib.sha256(library.read_bytes()).hexdigest() == digest.read_text(
            encoding="utf-8"
        )
    except (OSError, ValueError):
        return False


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_ours_alone(path: Path) -> bool:
    """Whether this user owns a file or folder, and no other may write it."""
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> str:
    """What the compiler's `-march=native` depends on."""
    model = _line_of_processor("model name") or platform.processor()
    return f"{platform.machine()} {model} {_features()}"


def _features() -> str:
    """What the processor can do, as the system lists it; empty where it does not."""
    return _line_of_processor("flags") or _line_of_processor("Features")


def _line_of_processor(start: str) -> str:
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return next((line for line in lines if line.startswith(start)), "")


def _cache_folder() -> Path | None:
    """The user's cache folder; None where there is none that this user alone can write."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
        folder = folder / "segmamba"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_ours_alone(folder) and os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # the latter where the user has no home
        return None


def constant(name: str) -> int:
    """A number that the library was compiled with, such as "lanes"."""
    library = cpu_library()
    return getattr(library, name)() if library else 0


def scratch_size(name: str, *numbers: int) -> int:
    """How many floats of memory a kernel needs for itself.

    Args:
        name: The kernel.
        *numbers: On which that depends, in order.
    """
    size = getattr(cpu_library(), f"{name}_scratch")
    size.restype = ctypes.c_int64
    return size(*map(ctypes.c_int64, numbers))


def run(name: str, arguments: tuple[Any, ...], first: int, last: int) -> None:
    """Let a kernel do the part [first, last) of its work; other threads run meanwhile.

    Args:
        name: The kernel.
        arguments: Its pointers, as contiguous tensors or None, and its numbers, in order.
        first: Where the part begins.
        last: Where it ends.
    """
    values = map(_as_c, (*arguments, first, last))
    getattr(cpu_library(), name)(*values)


def _as_c(value: Tensor | float | None) -> ctypes.c_int64 | ctypes.c_double | ctypes.c_void_p:
    """A number, or the address of a tensor, as a kernel takes it."""
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())


def fp32(weight: Tensor) -> Tensor:
    """The same weights, contiguous, for a kernel, which reads the memory of fp32.

    Args:
        weight: Of any shape.

    Returns:
        The weights.

    Raises:
        TypeError: They are of another precision.
    """
    if weight.dtype != torch.float32:
        raise TypeError(f"weights of {weight.dtype} for a volume of {torch.float32}")
    return weight.contiguous()


def in_parts(count: int, work: Callable[[int, int], R]) -> list[R]:
    """Do `count` pieces of work in as many threads as torch has.

    Args:
        count: The number of pieces.
        work: Does the pieces [first, last).

    Returns:
        What `work` returned for each part, in order.
    """
    parts = max(1, min(torch.get_num_threads(), count))
    if parts == 1:
        return [work(0, count)]
    bounds = [count * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as threads:
        return list(threads.map(work, bounds[:-1], bounds[1:]))


def total(parts: list[Tensor]) -> Tensor:
    """The sum of what each part of a work summed.

    Args:
        parts: Of one shape.

    Returns:
        The same shape.
    """
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
