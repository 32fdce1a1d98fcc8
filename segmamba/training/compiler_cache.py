"""The compiler's cache on disk: where it lies, and which graphs are in it.

torch's compiler keeps what it makes of a graph under a name that depends on the graph, torch and
the GPU. A minute's work of one process is thus found by the next in seconds. Beside it lies a list
of our own, by which a run knows before it compiles whether the compiler will find its graph.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import segmamba
from segmamba.environment import digest_of_code
from segmamba.files import write_json

if TYPE_CHECKING:
    from segmamba.config import Config

VARIABLES = (
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_COMPILE_THREADS",
    "TRITON_PTXAS_PATH",
)
USERS = {name: os.environ[name] for name in VARIABLES if name in os.environ}
"""What the user has chosen for the compiler; read before this program chooses."""
COMPILED_CODE = ("models", "device.py", "training/losses.py", "training/step.py")
"""The code whose graph the compiler is given."""
SETTINGS = (
    "model.",
    "loss.",
    "data.patch_size",
    "train.batch_size",
    "train.precision",
    "train.deterministic",
)
"""The beginnings of the settings that a graph depends on."""


def graph_of(config: Config, part: str = "training") -> str:
    """Name the graph that the compiler makes of a run's network and loss.

    Args:
        config: The configuration of the run.
        part: "training" or "pretraining", which have losses of their own.

    Returns:
        The settings that count, as JSON; runs with the same text share a graph.
    """
    flat = config.to_flat_dict()
    settings = {name: value for name, value in flat.items() if name.startswith(SETTINGS)}
    hard_cases = config.learning.hard_case_factor > 1
    return json.dumps(settings | {"part": part, "hard cases": hard_cases}, sort_keys=True)


@dataclass(frozen=True)
class CompilerCache:
    """A folder of the compiler, and the graphs that it is known to hold."""

    folder: Path

    @classmethod
    def below(cls, output: Path | str) -> CompilerCache:
        """The cache of a folder of results.

        It is the one that TORCHINDUCTOR_CACHE_DIR named when this process started, or a folder in
        the results' own cache.
        """
        folder = USERS.get("TORCHINDUCTOR_CACHE_DIR")
        return cls(Path(folder or Path(output).resolve() / "cache" / "compiler"))

    @classmethod
    def of_this_process(cls) -> CompilerCache | None:
        """The cache that `use` has chosen, or the user; None where neither did."""
        return _in_use or (cls.below("") if "TORCHINDUCTOR_CACHE_DIR" in USERS else None)

    def use(self, threads: int) -> None:
        """Let this process's compiler work there.

        Args:
            threads: Processes that it may start to compile kernels; counts until the compiler is
                first used.
        """
        chosen = {
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder),
            # The scan's own kernels are compiled by Triton alone, which would keep them elsewhere.
            "TRITON_CACHE_DIR": str(self.folder / "triton"),
            "TORCHINDUCTOR_COMPILE_THREADS": str(max(1, threads)),
        }
        if assembler := _assembler_of_torch():
            # torch's compiler chooses it when it first compiles, not when it finds its kernels in
            # the cache. Triton looks for the scan's kernels by the assembler's version.
            chosen["TRITON_PTXAS_PATH"] = assembler
        os.environ |= {name: USERS.get(name, value) for name, value in chosen.items()}
        global _in_use
        _in_use = CompilerCache(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))

    def holds(self, graph: str, kind: str) -> bool:
        """Whether the compiler will find a graph, as `graph_of` names it.

        Args:
            graph: The graph.
            kind: The kind of device that it runs on, as `device_kind` names it.
        """
        return self._file(graph, kind).exists()

    def add(self, graph: str, kind: str) -> None:
        """Note that the compiler has made a graph for a kind of device."""
        file = self._file(graph, kind)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, json.loads(graph))

    def _file(self, graph: str, kind: str) -> Path:
        known = "\0".join([graph, _code(), version("torch"), kind])
        return self.folder / "graphs" / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.json"


_in_use: CompilerCache | None = None
"""What `use` has chosen. The variable would not do: torch's compiler sets it where nobody has."""


def _assembler_of_torch() -> str:
    """The path of the assembler that torch brings with it; empty without one."""
    package = importlib.util.find_spec("torch")
    assert package and package.origin, "torch is a dependency"
    file = Path(package.origin).with_name("bin") / "ptxas"
    return str(file) if os.access(file, os.X_OK) else ""


@functools.cache
def _code() -> str:
    return digest_of_code(Path(segmamba.__file__).parent, COMPILED_CODE)
