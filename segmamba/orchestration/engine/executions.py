"""The manners in which a study's trials could be run, each measured.

An Execution says how many trials run at once, with which share of a GPU or how many cores, compiled
or not. All trials of a study run in the same one, so that arms differ by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from segmamba.orchestration.engine.machine import Machine
from segmamba.orchestration.engine.resources import Resources, default_resources, trial_cpus
from segmamba.studies.spec import TrialPlan

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.data.splits import Split
    from segmamba.training.rehearsal import Rehearsal

MEMORY_SHARE = 0.9
"""The share of a device's memory that all trials together may take. The rest is for fragments of
the allocator and for other programs."""
WORTH_TRYING = 1.1
"""One more trial on a GPU is tried as long as the trial before raised the steps per second by this
factor."""


class Measuring(Protocol):
    """Measures what a trial costs; segmamba.orchestration.engine.measuring.Measure is one."""

    def __call__(
        self,
        configs: Sequence[Config],
        *,
        threads: int,
        compile: str = "never",
        together: bool = False,
    ) -> list[Rehearsal]:
        """Rehearse a trial of each configuration.

        Args:
            configs: What to rehearse.
            threads: Threads of torch in each process.
            compile: The value of `train.compile`.
            together: Whether all run at the same time on one GPU.

        Returns:
            A Rehearsal for each configuration, in the same order.
        """


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a study has to run."""

    arms: dict[str, Config]
    """Arm name to configuration; the first is the baseline's."""
    trials: Sequence[TrialPlan]
    data: Split
    """The split of one fold; all folds cost about the same."""

    @property
    def base(self) -> Config:
        """The configuration of the first arm."""
        return next(iter(self.arms.values()))

    @property
    def used_arms(self) -> dict[str, Config]:
        """The arms that have trials, in the order of the trials."""
        return {arm: self.arms[arm] for arm in dict.fromkeys(trial.arm for trial in self.trials)}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One manner of running all trials, measured with the first arm."""

    name: str
    resources: Resources
    step_s: float
    """Seconds of an optimiser step of the first arm."""
    slowdown: float
    """`step_s` divided by that of the first arm alone on a GPU, or with the fewest threads."""


def thread_choices(trials: int, machine: Machine) -> list[int]:
    """The numbers of threads for a trial that are worth comparing on a machine without GPUs.

    More than one thread is considered only where a core would otherwise stand idle for long.

    Args:
        trials: How many trials there are.
        machine: Where they run.
    """
    cores, most = machine.cores, machine.trial_cores
    if trials % cores == 0 or trials >= 4 * cores:
        return [1]
    return sorted({1, min(2, most), min(most, cores // min(trials, cores))})


def measure_on_cores(
    work: Workload, machine: Machine, measure: Measuring
) -> tuple[dict[str, Rehearsal], list[Execution]]:
    """Measure a study on a machine without GPUs.

    Args:
        work: The study's trials.
        machine: Where they run.
        measure: Measures what a trial costs.

    Returns:
        The Rehearsal of each arm with the fewest threads, and an Execution for each number of
        threads that is worth comparing.
    """
    arms = work.used_arms
    first, config = next(iter(arms.items()))
    fewest, *more = thread_choices(len(work.trials), machine)
    alone = dict(zip(arms, measure(list(arms.values()), threads=fewest), strict=True))
    measured = {fewest: alone[first]} | {
        threads: measure([config], threads=threads)[0] for threads in more
    }
    executions = []
    for threads, rehearsal in measured.items():
        fitting = int(MEMORY_SHARE * machine.memory_bytes / max(1, rehearsal.peak_bytes))
        at_once = max(1, min(len(work.trials), machine.holds(threads), fitting))
        resources = Resources(
            gpus=0,
            cpus=threads,
            threads=threads,
            at_once=at_once,
            cores=machine.cores,
            compile=config.train.compile,
        )
        executions.append(
            Execution(
                name=f"{at_once} at once, {threads} core{'s' * (threads > 1)} each",
                resources=resources,
                step_s=rehearsal.step_s,
                slowdown=rehearsal.step_s / alone[first].step_s,
            )
        )
    return alone, executions


def measure_on_gpus(
    work: Workload,
    machine: Machine,
    measure: Measuring,
    gpus_per_trial: float | None,
    compile: str,
) -> tuple[dict[str, Rehearsal], list[Execution]]:
    """Measure a study on a machine with GPUs.

    Eager trials are packed on a GPU as long as that pays. Compiled ones run one to a GPU: they
    leave nothing of it idle.

    Args:
        work: The study's trials.
        machine: Where they run.
        measure: Measures what a trial costs.
        gpus_per_trial: What the user asked for; None compares all.
        compile: The value of `train.compile` in every trial, always or never.

    Returns:
        The Rehearsal of each arm alone on a GPU, and the Executions that the user's wish leaves.
    """
    arms = work.used_arms
    config = next(iter(arms.values()))
    kind = {"never": "eager", "always": "compiled"}[compile]
    whole = gpus_per_trial if gpus_per_trial and gpus_per_trial > 1 else 1.0
    cpus = trial_cpus(config, machine, whole)
    rehearsals = measure(list(arms.values()), threads=cpus, compile=compile)
    alone = dict(zip(arms, rehearsals, strict=True))
    candidates = _GpuExecutions(machine, config, len(work.trials), rehearsals[0], compile)
    executions = [candidates.execution(f"1 a GPU, {kind}", whole, [candidates.alone])]
    largest = max(rehearsal.peak_bytes for rehearsal in rehearsals)
    if gpus_per_trial:
        fewest = most = round(1 / gpus_per_trial) if gpus_per_trial < 1 else 1
    else:
        fewest, most = 2, candidates.most_on_a_gpu(largest) if compile == "never" else 1
    for packed in range(max(2, fewest), most + 1):
        measured = measure(
            [config] * packed,
            threads=trial_cpus(config, machine, 1 / packed),
            compile=compile,
            together=True,
        )
        executions.append(candidates.execution(f"{packed} a GPU, {kind}", 1 / packed, measured))
        if packed / executions[-1].step_s < WORTH_TRYING * (packed - 1) / executions[-2].step_s:
            break
    if gpus_per_trial:
        asked_for = [e for e in executions if math.isclose(e.resources.gpus, gpus_per_trial)]
        executions = asked_for or executions[-1:]
    return alone, executions


@dataclass(frozen=True)
class _GpuExecutions:
    """What all Executions of a study on GPUs share."""

    machine: Machine
    config: Config
    """Of the first arm."""
    trials: int
    alone: Rehearsal
    """The Rehearsal of the first arm."""
    compile: str

    def execution(self, name: str, gpus: float, measured: Sequence[Rehearsal]) -> Execution:
        """The Execution with the share `gpus` of a GPU, from Rehearsals that ran side by side."""
        step_s = sum(rehearsal.step_s for rehearsal in measured) / len(measured)
        resources = default_resources(self.machine, self.config, self.trials, gpus, self.compile)
        return Execution(
            name=name,
            resources=resources,
            step_s=step_s,
            slowdown=step_s / self.alone.step_s,
        )

    def most_on_a_gpu(self, peak_bytes: int) -> int:
        """How many trials of at most `peak_bytes` fit on a GPU, by memory, cores and number.

        A trial has two cores at least: one for its own process and one for its loader.
        """
        return min(
            int(MEMORY_SHARE * self.machine.gpu_bytes / peak_bytes),
            self.machine.gpu_cores // 2,
            math.ceil(self.trials / self.machine.gpus),
        )
