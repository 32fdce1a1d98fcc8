"""What each trial of a study gets: cores, threads and a share of a GPU; without any measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segmamba.orchestration.engine.machine import Machine

if TYPE_CHECKING:
    from segmamba.config import Config


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How many trials run at once, and with what. All trials of a study have the same."""

    gpus: float
    """GPUs of one trial, or a share of one; 0 on a CPU."""
    cpus: int
    """Cores of one trial, the processes of its loader included."""
    threads: int
    """Threads of torch in one trial."""
    at_once: int
    """Trials that run at the same time."""
    cores: int
    """Cores of the whole study."""
    compile: str
    """The value of `train.compile` in every trial: auto, always or never."""


def default_resources(
    machine: Machine, base: Config, trials: int, gpus: float, compile: str
) -> Resources:
    """The Resources of a study of which nothing is measured.

    Args:
        machine: Where the trials run.
        base: The configuration of the baseline.
        trials: How many trials there are.
        gpus: GPUs of one trial; ignored on a machine without any, where the trials share the cores
            evenly.
        compile: The value of `train.compile` in every trial.
    """
    if not machine.gpus:
        threads = max(1, min(machine.cores // max(1, trials), machine.trial_cores))
        return _on_cores(machine, trials, threads, compile)
    return _on_gpus(machine, base, trials, gpus, compile)


def resumed_resources(
    stored: Mapping[str, Any] | None, machine: Machine, base: Config, trials: int
) -> Resources:
    """The Resources of a study that goes on, perhaps on another machine.

    Threads and compilation stay, since they change the last bits of a result.

    Args:
        stored: The Resources that the study began with, as a dict; None from a version that stored
            none.
        machine: Where the trials run now.
        base: The configuration of the baseline.
        trials: How many trials are left.
    """
    if stored is None:
        return default_resources(machine, base, trials, 1.0, base.train.compile)
    began = Resources(**stored)
    if not machine.gpus:
        return _on_cores(machine, trials, began.threads, began.compile)
    resources = _on_gpus(machine, base, trials, began.gpus or 1.0, began.compile)
    return dataclasses.replace(resources, threads=began.threads)


def _on_cores(machine: Machine, trials: int, threads: int, compile: str) -> Resources:
    cpus = min(threads, machine.trial_cores)
    return Resources(
        gpus=0,
        cpus=cpus,
        threads=threads,
        at_once=max(1, min(trials, machine.holds(cpus))),
        cores=machine.cores,
        compile=compile,
    )


def _on_gpus(machine: Machine, base: Config, trials: int, gpus: float, compile: str) -> Resources:
    cpus = trial_cpus(base, machine, gpus)
    return Resources(
        gpus=gpus,
        cpus=cpus,
        threads=cpus,
        at_once=max(1, min(machine.holds(cpus, gpus), max(1, trials))),
        cores=machine.cores,
        compile=compile,
    )


def trial_cpus(config: Config, machine: Machine, gpus: float) -> int:
    """Cores of a trial on a GPU: for its own process and for those of its loader.

    They are no more than the share of the node's cores that goes with its share of the GPUs, so
    that every GPU finds cores for a trial.

    Args:
        config: The configuration of a trial.
        machine: Where it runs.
        gpus: GPUs of the trial, or a share of one.
    """
    return min(config.data.workers + 1, max(1, int(machine.gpu_cores * gpus)))


def loader_workers(config: Config, resources: Resources) -> int:
    """The processes with which a trial reads its patches: no more than it has cores for.

    No result depends on them.
    """
    if not resources.gpus:
        return config.data.workers
    return min(config.data.workers, max(1, resources.cpus - 1))


def reuses_processes(scheduler: str | None) -> bool:
    """Whether the process of a trial goes on to the next trial.

    This saves what torch, a GPU's first kernels and the compiler's cache take to load. Under a
    scheduler each trial has a process of its own, since one that is stopped early may not free its
    memory in time.

    Args:
        scheduler: The scheduler that may stop trials; None or "none" without one.
    """
    return scheduler in (None, "none")
