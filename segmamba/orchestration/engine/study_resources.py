"""How the trials of a study share the machine, and what they are expected to cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.orchestration.engine.planning import Prepared
from segmamba.studies.spec import TrialPlan

if TYPE_CHECKING:
    from segmamba.orchestration.engine.compile_choice import CompileChoice
    from segmamba.orchestration.engine.machine import Machine
    from segmamba.orchestration.engine.measuring_processes import MeasuringProcesses
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.engine.resource_plan import ResourcePlan
    from segmamba.studies.results import Study


def plan_resources(
    planned: Study,
    ready: Prepared,
    options: StudyOptions,
    machine: Machine,
    choice: CompileChoice,
    progress: ProgressDisplay,
) -> ResourcePlan:
    """Decide how the trials of a study share the machine, measured where that pays.

    Nodes of a cluster that are alike are measured on the first of them. The trials of a search cost
    what the baseline does.

    Args:
        planned: The study.
        ready: Its question and its cases.
        options: What the user chose.
        machine: Where it runs.
        choice: Whether the trials are compiled.
        progress: Shows what is measured.
    """
    from segmamba.environment import git_commit
    from segmamba.orchestration.engine.executions import Workload
    from segmamba.orchestration.engine.measuring import Measure
    from segmamba.orchestration.engine.measuring_processes import (
        LocalMeasurement,
        RemoteMeasurement,
    )
    from segmamba.orchestration.engine.resource_plan import measured_plan, unmeasured_plan
    from segmamba.training.compiler_cache import CompilerCache

    spec, configs = ready.spec, ready.configs
    if spec.space:
        options = dataclasses.replace(options, scheduler=options.scheduler or "asha")
    trials = planned_trials(planned, ready, options)
    if machine.differing:
        reason = f"not measured, since the nodes differ: {machine.differing}"
        base = configs[spec.baseline]
        return unmeasured_plan(base, len(trials), machine, options, choice, reason)
    feasible = ready.feasible
    trials = [trial for trial in trials if trial.arm in feasible]
    processes: MeasuringProcesses = LocalMeasurement()
    place, at_once = machine.name, machine.gpus or machine.cores
    if machine.nodes:
        node = machine.nodes[0]
        place, at_once = f"{node.kind} on {node.host}", node.gpus or machine.trial_cores
        processes = RemoteMeasurement(node, ready.data.cases, options.cache)
    kept = Path(options.output).resolve() / "cache" / "rehearsals"
    with Measure(
        ready.first_split,
        kept,
        [place, git_commit()],
        at_once=at_once,
        compiler=str(CompilerCache.below(options.output).folder),
        say=progress.say,
        processes=processes,
    ) as measure:
        work = Workload(arms=feasible, trials=trials, data=ready.first_split)
        resource_plan = measured_plan(work, machine, measure, options, choice)
    measured = f"{machine.name}; measured on {place}"
    name = measured if machine.nodes and resource_plan.arms else machine.name
    return dataclasses.replace(resource_plan, machine=name)


def planned_trials(planned: Study, ready: Prepared, options: StudyOptions) -> list[TrialPlan]:
    """All trials of a study, those of its search as trials of the baseline.

    Args:
        planned: The study.
        ready: Its question.
        options: Of which `trials` counts.
    """
    spec = ready.spec
    searched = (options.trials or spec.budget.trials) if spec.space else 0
    return [TrialPlan(arm=spec.baseline, seed=0)] * searched + planned.plans


def choose_compilation(
    planned: Study, ready: Prepared, options: StudyOptions, machine: Machine
) -> CompileChoice:
    """Decide whether the trials of a study are compiled.

    Args:
        planned: The study.
        ready: Its question and its cases.
        options: Of which `trials` and `output` count.
        machine: Where it runs.
    """
    from segmamba.orchestration.engine.compile_choice import compile_choice
    from segmamba.training.compiler_cache import CompilerCache

    # Without a GPU the networks do not matter, and to build others' takes seconds.
    configs = (machine.gpus and ready.feasible) or ready.configs
    trials = planned_trials(planned, ready, options)
    cache = CompilerCache.below(options.output)
    return compile_choice(configs, trials, ready.spec.space, machine, cache)
