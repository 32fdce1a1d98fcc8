"""The kernels of cpu_kernels.c: compiled when they are first asked for, kept, and run in threads.

The machine's own C compiler takes less than a second, once for a machine: the library is kept in
the user's cache folder, by its source, compiler and processor. Without a compiler torch's kernels
serve, which are slower for narrow volumes and for scans; results then differ in the last bits.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from segmamba.files import replacing

R = TypeVar("R")
OFF = "SEGMAMBA_CPU_KERNELS"
"""The environment variable that, set to 0, leaves everything to torch."""
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
COMPILE_LIMIT_S = 120.0
CPUINFO = Path("/proc/cpuinfo")


def cpu_library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where torch's serve."""
    return find_library()[0]


@functools.cache
def find_library() -> tuple[ctypes.CDLL | None, str]:
    """Load the kernels, and compile them first where that was not done yet.

    Returns:
        The library, or None where there is none; and the compiler, or the reason in words.
    """
    if os.environ.get(OFF) == "0":
        return None, f"{OFF}=0"
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler found (cc or gcc)"
    try:
        return ctypes.CDLL(str(_compiled(compiler))), compiler
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[0]
        return None, f"{compiler} does not compile the kernels: {reason}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{compiler}: {error}"


def _compiled(compiler: str) -> Path:
    """The compiled library of this source, compiler and processor."""
    source = resources.files("segmamba.models").joinpath("cpu_kernels.c").read_text()
    version = subprocess.run(
        [compiler, "--version"], check=True, capture_output=True, text=True, timeout=COMPILE_LIMIT_S
    )
    made_of = "\n".join([source, *FLAGS, version.stdout, _processor()])
    name = f"cpu_kernels_{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    library = _cache_folder() / name
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as folder:
        code, built = Path(folder) / "cpu_kernels.c", Path(folder) / name
        code.write_text(source)
        subprocess.run(
            [compiler, *FLAGS, "-o", str(built), str(code)],
            check=True,
            capture_output=True,
            text=True,
            timeout=COMPILE_LIMIT_S,
        )
        with replacing(library) as file:  # other processes may be doing the same
            file.write(built.read_bytes())
    return library


def _processor() -> str:
    """What the compiler's `-march=native` depends on."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    return f"{platform.machine()} {model} {features}"


def _cache_folder() -> Path:
    """The user's cache folder, or where it cannot be written a new one for this process."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "segmamba"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="segmamba_"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="segmamba_"))


def constant(name: str) -> int:
    """A number that the library was compiled with, such as "lanes"."""
    library = cpu_library()
    return getattr(library, name)() if library else 0


def run(name: str, arguments: tuple[Any, ...], first: int, last: int) -> None:
    """Let a kernel do the part [first, last) of its work; other threads run meanwhile.

    Args:
        name: The kernel.
        arguments: Its pointers, as contiguous tensors, and its numbers, in order.
        first: Where the part begins.
        last: Where it ends.
    """
    values = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a)
        for a in arguments
    ]
    getattr(cpu_library(), name)(*values, ctypes.c_int64(first), ctypes.c_int64(last))


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
