"""Whether the trials of a study are compiled.

Trials share graphs: every seed and fold of an arm has the same one, and arms that differ in data or
augmentation alone share one. What compiling a graph costs is therefore weighed against the passes
of the whole study.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from segmamba.studies.spec import TrialPlan

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.orchestration.engine.machine import Machine
    from segmamba.studies.search_space import Distribution
    from segmamba.training.compiler_cache import CompilerCache


@dataclass(frozen=True, kw_only=True)
class CompileChoice:
    """How all trials of a study run."""

    compile: Literal["auto", "always", "never"]
    """The value of `train.compile` in every trial. auto: each decides for itself."""
    reason: str
    """In words."""
    missing: tuple[Config, ...] = ()
    """A configuration for each graph that the compiler has not made yet."""


def compile_choice(
    configs: Mapping[str, Config],
    trials: Sequence[TrialPlan],
    space: Mapping[str, Distribution],
    machine: Machine,
    cache: CompilerCache,
) -> CompileChoice:
    """Decide whether the trials of a study are compiled.

    Args:
        configs: Arm name to configuration.
        trials: The trials that are planned; those of a search count for the baseline.
        space: The settings that a search varies; empty without one.
        machine: Where they run.
        cache: The compiler's cache.

    Returns:
        The choice. Compiling a graph costs time on one GPU, and all its passes gain on all GPUs.
    """
    import torch

    from segmamba.training.compiler_cache import SETTINGS, graph_of
    from segmamba.training.compiling import why_not
    from segmamba.training.passes import PASSES_THAT_PAY, forward_passes

    wanted = next(iter(configs.values())).train.compile
    if not machine.gpus:  # there the graph depends on the trial's threads: each compiles its own
        return CompileChoice(compile=wanted, reason="on a CPU each trial decides for itself")
    device = torch.device("cuda")
    reasons = {arm: why_not(config, device) for arm, config in configs.items()}
    able = {arm: config for arm, config in configs.items() if not reasons[arm]}
    if not able:
        return CompileChoice(compile="never", reason=next(iter(reasons.values())))
    if any(name.startswith(SETTINGS) for name in space):
        return CompileChoice(
            compile=wanted, reason="each trial decides for itself: the search changes the network"
        )
    passes = Counter[str]()
    for trial in trials:
        if trial.arm in able:
            passes[graph_of(able[trial.arm])] += forward_passes(able[trial.arm])
    first = {graph_of(config): config for config in reversed(able.values())}
    missing = {
        graph: config.changed({"train.compile": "always"})
        for graph, config in first.items()
        if passes[graph] and not cache.holds(graph, machine.gpu)
    }
    total, new = sum(passes.values()), len(missing)
    networks = f"{len(passes)} network{'s' * (len(passes) > 1)}"
    if wanted == "always":
        reason = "train.compile = always"
    elif not missing:
        reason = f"compiled: the compiler's cache has {networks} of {len(trials)} trials"
    else:
        pay = PASSES_THAT_PAY * machine.gpus * math.ceil(new / machine.gpus)
        if total < pay:
            return CompileChoice(
                compile="never",
                reason=f"eager: {total} forward passes of {len(trials)} trials are too few to earn "
                f"the compilation of {new} of {networks} back ({pay})",
            )
        reason = (
            f"compiled: {total} forward passes of {len(trials)} trials share {networks}, "
            f"{new} of them new to the compiler"
        )
    return CompileChoice(compile="always", reason=reason, missing=tuple(missing.values()))
