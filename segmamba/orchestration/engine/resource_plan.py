"""How the trials of a study share the machine and what the study will cost.

Both are decided from measurements before anything is spent: the Execution that ends soonest is
chosen.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segmamba.orchestration.engine.compile_choice import CompileChoice
from segmamba.orchestration.engine.executions import (
    Execution,
    Measuring,
    Workload,
    measure_on_cores,
    measure_on_gpus,
    thread_choices,
)
from segmamba.orchestration.engine.machine import Machine, check_gpus_per_trial
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.resources import Resources, default_resources
from segmamba.orchestration.engine.study_cost import (
    checkpoint_bytes,
    optimizer_steps,
    study_seconds,
)
from segmamba.screen import clock
from segmamba.training.passes import PASSES_THAT_PAY, forward_passes

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.studies.power import PowerTable
    from segmamba.training.rehearsal import Rehearsal

SHORT_STEPS = 500
"""On a CPU where there is nothing to choose, a trial of fewer optimiser steps is over before
measuring it pays."""


@dataclass(frozen=True, kw_only=True)
class ExecutionEstimate:
    """What one Execution is expected to achieve."""

    name: str
    steps_per_s: float
    """Optimiser steps a second, of all trials together."""
    study_s: float
    """Seconds of the whole study."""


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What a trial of one arm is expected to cost, in seconds and bytes."""

    step_s: float
    trial_s: float
    """The whole trial."""
    train_s: float
    """All its optimiser steps."""
    validate_case_s: float
    test_case_s: float
    peak_bytes: int
    """Memory of the GPU, or main memory on a CPU."""


@dataclass(frozen=True, kw_only=True)
class ResourcePlan:
    """How a study runs and what that is expected to cost.

    Lists, dicts and numbers of costs are empty or 0 where nothing was measured.
    """

    resources: Resources
    machine: str
    """The machine in words."""
    why: str
    """The reason for these resources, in one sentence."""
    executions: Sequence[ExecutionEstimate] = ()
    """What was compared."""
    arms: Mapping[str, ArmCost] = field(default_factory=dict)
    """Arm name to the cost of its trials."""
    trials: int = 0
    study_s: float = 0.0
    disk_bytes: int = 0
    """Size of the checkpoints of all trials."""
    disk_free_bytes: int = 0
    power: PowerTable | None = None
    """What the seeds and patients of a sequential study can find; None in any other study."""

    def as_dict(self) -> dict[str, Any]:
        """The plan as it is stored with a study and printed by `--plan --json`."""
        ways = [
            {"way": one.name, "steps_per_s": one.steps_per_s, "study_s": one.study_s}
            for one in self.executions
        ]
        plan = dataclasses.asdict(self)
        if self.power is None:
            del plan["power"]
        return {
            "ways" if name == "executions" else name: ways if name == "executions" else value
            for name, value in plan.items()
        }


def measured_plan(
    work: Workload,
    machine: Machine,
    measure: Measuring,
    options: StudyOptions,
    choice: CompileChoice,
) -> ResourcePlan:
    """The plan of a study, measured where that pays or `options.plan` asks for it.

    Args:
        work: The study's trials.
        machine: Where they run.
        measure: Measures what a trial costs.
        options: Of which `gpus_per_trial`, `plan`, `output` and `scheduler` count.
        choice: Whether the trials are compiled.

    Raises:
        UserError: The machine cannot give a trial as many GPUs as were asked for.
    """
    check_gpus_per_trial(options.gpus_per_trial, machine)
    why = _why_not_measured(work, machine, options, choice)
    if why and not options.plan:
        return unmeasured_plan(work.base, len(work.trials), machine, options, choice, why)
    if machine.gpus:
        alone, executions = measure_on_gpus(
            work,
            machine,
            measure,
            options.gpus_per_trial,
            "always" if choice.compile == "always" else "never",
        )
    else:
        alone, executions = measure_on_cores(work, machine, measure)
    costs = [study_seconds(each, work, alone, options.scheduler) for each in executions]
    chosen = min(range(len(executions)), key=lambda i: costs[i][0])
    estimates = [
        ExecutionEstimate(
            name=execution.name,
            steps_per_s=execution.resources.at_once / execution.step_s,
            study_s=study_s,
        )
        for execution, (study_s, _) in zip(executions, costs, strict=True)
    ]
    study_s, trial_s = costs[chosen]
    arms = work.used_arms
    return ResourcePlan(
        resources=dataclasses.replace(executions[chosen].resources, compile=choice.compile),
        machine=machine.name,
        why=_reason(estimates, chosen, choice if machine.gpus else None),
        executions=estimates,
        trials=len(work.trials),
        study_s=study_s,
        arms={
            arm: _arm_cost(config, alone[arm], executions[chosen], trial_s[arm])
            for arm, config in arms.items()
        },
        disk_bytes=sum(
            checkpoint_bytes(arms[trial.arm], alone[trial.arm]) for trial in work.trials
        ),
        disk_free_bytes=shutil.disk_usage(options.output).free,
    )


def unmeasured_plan(
    base: Config,
    trials: int,
    machine: Machine,
    options: StudyOptions,
    choice: CompileChoice,
    why: str,
) -> ResourcePlan:
    """The plan of a study of which nothing is measured.

    A trial gets as many GPUs as were asked for, one by default; without GPUs the trials share the
    cores evenly.

    Args:
        base: The configuration of the baseline.
        trials: How many trials there are.
        machine: Where they run.
        options: Of which `gpus_per_trial` counts.
        choice: Whether the trials are compiled.
        why: The reason for not measuring.

    Raises:
        UserError: The machine cannot give a trial as many GPUs as were asked for.
    """
    check_gpus_per_trial(options.gpus_per_trial, machine)
    return ResourcePlan(
        resources=default_resources(
            machine, base, trials, options.gpus_per_trial or 1.0, choice.compile
        ),
        machine=machine.name,
        trials=trials,
        why=why,
    )


def _why_not_measured(
    work: Workload, machine: Machine, options: StudyOptions, choice: CompileChoice
) -> str:
    """The reason for not measuring; empty where measuring pays.

    On a GPU, compiled trials one to a GPU are known to win, and eager ones that are few are over
    before the best number of them on a GPU is found.
    """
    if machine.gpus:
        passes = sum(forward_passes(work.arms[trial.arm]) for trial in work.trials)
        short = passes < PASSES_THAT_PAY * machine.gpus
        settled = choice.compile != "never" or options.gpus_per_trial is not None or short
        return choice.reason if settled else ""
    choices = thread_choices(len(work.trials), machine)
    if len(choices) > 1 or optimizer_steps(work.base) >= SHORT_STEPS:
        return ""
    return "not measured: there is nothing to choose, and it is short"


def _arm_cost(
    config: Config, rehearsal: Rehearsal, execution: Execution, trial_s: float
) -> ArmCost:
    step_s = rehearsal.step_s * execution.slowdown
    return ArmCost(
        step_s=step_s,
        trial_s=trial_s,
        train_s=optimizer_steps(config) * rehearsal.step_s * execution.slowdown,
        validate_case_s=rehearsal.validate_case_s,
        test_case_s=rehearsal.test_case_s,
        peak_bytes=rehearsal.peak_bytes,
    )


def _reason(
    estimates: Sequence[ExecutionEstimate], chosen: int, choice: CompileChoice | None
) -> str:
    if len(estimates) == 1 and choice:
        return choice.reason
    if len(estimates) == 1:
        return f"{estimates[0].name}: the only way that this machine and the options leave"
    best = estimates[chosen]
    others = ", ".join(
        f"{one.name} {clock(one.study_s)}" for i, one in enumerate(estimates) if i != chosen
    )
    return f"{best.name}: ends soonest, in {clock(best.study_s)} ({others})"
