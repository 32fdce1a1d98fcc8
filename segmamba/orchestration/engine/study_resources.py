"""How the trials of a study share the machine, and what they are expected to cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.orchestration.engine.planning import Prepared, infeasible_arms
from segmamba.studies.spec import TrialPlan

if TYPE_CHECKING:
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

    spec, configs = ready.spec, ready.configs
    searched = (options.trials or spec.budget.trials) if spec.space else 0
    if spec.space:
        options = dataclasses.replace(options, scheduler=options.scheduler or "asha")
    trials = [TrialPlan(arm=spec.baseline, seed=0)] * searched + planned.plans
    if machine.differing:
        reason = f"not measured, since the nodes differ: {machine.differing}"
        return unmeasured_plan(configs[spec.baseline], len(trials), machine, options, reason)
    infeasible = infeasible_arms(configs)
    feasible = {arm: config for arm, config in configs.items() if arm not in infeasible}
    trials = [trial for trial in trials if trial.arm in feasible]
    processes: MeasuringProcesses = LocalMeasurement()
    place, at_once = machine.name, machine.cores
    if machine.nodes:
        node = machine.nodes[0]
        place, at_once = f"{node.kind} on {node.host}", machine.trial_cores
        processes = RemoteMeasurement(node, ready.data.cases, options.cache)
    kept = Path(options.output).resolve() / "cache" / "rehearsals"
    with Measure(
        ready.first_split,
        kept,
        [place, git_commit()],
        at_once=at_once,
        say=progress.say,
        processes=processes,
    ) as measure:
        work = Workload(arms=feasible, trials=trials, data=ready.first_split)
        resource_plan = measured_plan(work, machine, measure, options)
    measured = f"{machine.name}; measured on {place}"
    name = measured if machine.nodes and resource_plan.arms else machine.name
    return dataclasses.replace(resource_plan, machine=name)
