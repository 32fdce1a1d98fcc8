"""Whether compiling a run's network pays, and the networks that this process has compiled.

A process compiles a graph once. The next run with the same graph takes the compiled network over
with fresh weights: its kernels, cuDNN's choices and its CUDA graph are there already. What it
computes is what a network of its own would.
"""

import contextlib
import copyreg
import gc
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from typing_extensions import TypedDict

from segmamba.config import Config
from segmamba.device import device_kind
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.models.peers import NOT_ONE_GRAPH
from segmamba.training.compiler_cache import CompilerCache, graph_of
from segmamba.training.passes import PASSES_THAT_PAY, forward_passes

COMPILE_OPTIONS: dict[str, str | int | bool | Callable] = {
    "triton.cudagraphs": True,
    "realize_reads_threshold": 16,
    "realize_opcount_threshold": 200,
}
"""As mode="reduce-overhead", and elementwise work is computed again for each reader instead of
stored: else the compiler would write the masked gradients in front of a batch norm in fp32 and read
them twice."""

COMPILER_TAG = "compiler"
DECISION_FILE = "execution.json"
"""In a run's folder: how it began, where `train.compile` = auto left that open."""
MOST_GRAPHS = 64
"""Graphs of one process before torch refuses another; its own number is 8."""
MEMORY_SHARE = 0.5
"""Share of a GPU's memory that must be free where a process compiles a further graph and keeps
those that it has."""

Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass
class _Compiled:
    """A module and its compiled function, which is called in place of it."""

    module: torch.nn.Module
    function: Callable[..., Any]
    called: bool = False
    """Whether the compiler has made the graph; it does so at the first call."""

    def __call__(self, *inputs: torch.Tensor) -> Any:
        self.called = True
        return self.function(*inputs)


_idle: dict[tuple[str, str], _Compiled] = {}
"""Compiled modules that no run uses, by their graph and device."""


def decision_of_run(config: Config, device: torch.device, root: Path) -> tuple[bool, str]:
    """Decide whether a run's network is compiled, once for all its starts.

    What "auto" says depends on the compiler's cache, which other runs fill. A run that went on
    otherwise than it began would not end with the numbers of one that was never stopped.

    Args:
        config: As in `compile_decision`.
        device: Where the run trains; one that was moved to another kind decides anew.
        root: The folder of the run, which keeps the decision.

    Returns:
        As `compile_decision`.
    """
    if config.train.compile != "auto" or why_not(config, device):
        return compile_decision(config, device)
    file = root / DECISION_FILE
    if file.exists():
        kept = read_json(file, _Decision, fix="remove it: the run then decides anew")
        if kept["device"] == device_kind(device):
            return kept["compiled"], kept["reason"]
    compiled, reason = compile_decision(config, device)
    root.mkdir(parents=True, exist_ok=True)
    write_json(file, _Decision(device=device_kind(device), compiled=compiled, reason=reason))
    return compiled, reason


class _Decision(TypedDict):
    """What DECISION_FILE holds."""

    device: str
    compiled: bool
    reason: str


def compile_decision(
    config: Config, device: torch.device, part: str = "training"
) -> tuple[bool, str]:
    """Decide whether a run's network is compiled.

    Args:
        config: Its `train.compile` decides, or where that is "auto", the compiler's cache and the
            length of the run.
        device: Where the run trains.
        part: As in `graph_of`.

    Returns:
        Whether to compile, and the reason in words.
    """
    reason = why_not(config, device)
    if reason:
        return False, reason
    if config.train.compile == "always":
        return True, "train.compile = always"
    cache = CompilerCache.of_this_process()
    if cache and cache.holds(graph_of(config, part), device_kind(device)):
        return True, "compiled: the compiler's cache has the network"
    passes = forward_passes(config)
    if passes < PASSES_THAT_PAY:
        return (
            False,
            f"eager: {passes} forward passes are too few to earn the compilation back "
            f"({PASSES_THAT_PAY})",
        )
    return True, f"compiled: {passes} forward passes"


def why_not(config: Config, device: torch.device) -> str:
    """Why a run's network cannot be compiled, or is not to be; empty where it may be.

    Args:
        config: Its network, and its `train.compile`, count.
        device: Where the run trains.
    """
    if config.train.compile == "never":
        return "train.compile = never"
    if config.model.name in NOT_ONE_GRAPH:
        return f"eager: {config.model.name} does not compile as one graph"
    if config.train.compile == "always":
        return ""
    if device.type != "cuda":
        return f"eager: compiling is for GPUs, this is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "eager: triton is not installed"
    return ""


@contextlib.contextmanager
def computing(
    module: Module, config: Config, device: torch.device, *, part: str = "training"
) -> Iterator[tuple[Module, Callable[..., Any]]]:
    """A module on a device for as long as a run trains it, compiled where that is decided.

    Args:
        module: A network with its loss, on the CPU; it begins with these weights.
        config: The configuration of the run, by which the module was built.
        device: Where it trains.
        part: As in `graph_of`.

    Yields:
        The module, or one of the same graph that this process has compiled and that has taken its
        weights over; and the function to call in place of it.
    """
    if not compile_decision(config, device, part)[0]:
        placed = module.to(device)
        yield placed, placed
        return
    key = (graph_of(config, part), str(device))
    compiled = _idle.pop(key, None)
    if compiled is None:
        compiled = _newly_compiled(module, device)
    else:
        compiled.module.load_state_dict(module.state_dict())
    try:
        yield compiled.module, compiled  # type: ignore[misc]  # of the part in its key
    except GeneratorExit:
        _keep(key, compiled)  # whoever iterates over the run has seen enough of it
        raise
    except BaseException:
        forget_compiled()  # the failure may be in what was compiled
        raise
    else:
        _keep(key, compiled)


def compiler_record() -> dict[str, str]:
    """What this process's compiler found in its cache and what it had to make, as a tag of a run.

    Returns:
        {} where nothing was compiled.
    """
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return {}
    whole, parts = dynamo.counters["aot_autograd"], dynamo.counters["inductor"]
    found = {
        "networks found": whole["autograd_cache_hit"],
        "made": whole["autograd_cache_miss"],
        "not cacheable": whole["autograd_cache_bypass"],
        "passes found": parts["fxgraph_cache_hit"],
        "passes made": parts["fxgraph_cache_miss"],
    }
    if not any(found.values()):
        return {}
    return {COMPILER_TAG: ", ".join(f"{name} {count}" for name, count in found.items() if count)}


def forget_compiled() -> None:
    """Let go of all that this process has compiled, and of its memory."""
    _idle.clear()
    torch.compiler.reset()
    free_memory()


def free_memory() -> None:
    """Free what this process no longer uses, in circles too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _newly_compiled(module: torch.nn.Module, device: torch.device) -> _Compiled:
    import torch._dynamo
    import torch._functorch.config

    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    # The functions with gradients of our own are part of the graph by which the cache is asked.
    torch._functorch.config.autograd_cache_allow_custom_autograd_functions = True
    copyreg.pickle(torch.memory_format, _named_format)
    # What it could do better is for torch's developers, and would stand in each trial's output.
    warnings.filterwarnings("ignore", module=r"torch\._inductor\.")
    if _idle and (len(_idle) == MOST_GRAPHS - 1 or not _has_room(device)):
        forget_compiled()
    placed = module.to(device)
    return _Compiled(placed, torch.compile(placed, options=COMPILE_OPTIONS, fullgraph=True))


def _named_format(value: torch.memory_format) -> tuple[Callable[[str], Any], tuple[str]]:
    """Reduce a memory format to its name, as `copyreg` asks for it.

    Pickle else names the first of all imported modules in which it finds the format. The compiler's
    cache hashes that, and processes which have imported other modules would find nothing of each
    other's there.
    """
    return _format_of, (str(value).removeprefix("torch."),)


def _format_of(name: str) -> torch.memory_format:
    return getattr(torch, name)


def _has_room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused > MEMORY_SHARE * total


def _keep(key: tuple[str, str], compiled: _Compiled) -> None:
    """Keep a compiled module for the next run of its graph."""
    for parameter in compiled.module.parameters():
        parameter.grad = None
    _idle[key] = compiled
    cache = CompilerCache.of_this_process()
    if cache and compiled.called:
        graph, device = key
        cache.add(graph, device_kind(torch.device(device)))
