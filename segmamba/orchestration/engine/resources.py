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


def default_resources(machine: Machine, base: Config, trials: int, gpus: float) -> Resources:
    """The Resources of a study of which nothing is measured.

    Args:
        machine: Where the trials run.
        base: The configuration of the baseline.
        trials: How many trials there are.
        gpus: GPUs of one trial; ignored on a machine without any, where the trials share the cores
            evenly.
    """
    if not machine.gpus:
        threads = max(1, min(machine.cores // max(1, trials), machine.trial_cores))
        return _on_cores(machine, trials, threads, base.train.compile)
    return _on_gpus(machine, base, trials, gpus)


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
        return default_resources(machine, base, trials, 1.0)
    began = Resources(**stored)
    if not machine.gpus:
        return _on_cores(machine, trials, began.threads, began.compile)
    resources = _on_gpus(machine, base, trials, began.gpus or 1.0)
    return dataclasses.replace(resources, threads=began.threads, compile=began.compile)


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


def _on_gpus(machine: Machine, base: Config, trials: int, gpus: float) -> Resources:
    cpus = trial_cpus(base, machine)
    return Resources(
        gpus=gpus,
        cpus=cpus,
        threads=cpus,
        at_once=max(1, min(machine.holds(cpus, gpus), max(1, trials))),
        cores=machine.cores,
        compile=base.train.compile,
    )


def trial_cpus(config: Config, machine: Machine) -> int:
    """Cores of a trial on a GPU: its own process and those of its loader."""
    return min(config.data.workers + 1, machine.trial_cores)


def reuses_processes(resources: Resources, scheduler: str | None) -> bool:
    """Whether the process of a trial goes on to the next trial.

    This saves the seconds that torch takes to start. On a GPU each trial has a process of its own,
    so that the memory of one is free for the next. So it has under a scheduler, since a trial that
    is stopped early may not free its memory in time, and where trials are compiled, since torch
    refuses the ninth network of one process.

    Args:
        resources: What each trial gets.
        scheduler: The scheduler that may stop trials; None or "none" without one.
    """
    return not resources.gpus and scheduler in (None, "none") and resources.compile != "always"
