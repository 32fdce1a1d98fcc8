"""How long a study will take and how much disk it will need, computed from Rehearsals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segmamba.orchestration.engine.executions import Execution, Workload
from segmamba.orchestration.engine.resources import reuses_processes
from segmamba.training.compiler_cache import graph_of

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.data.splits import Split
    from segmamba.training.rehearsal import Rehearsal


def study_seconds(
    execution: Execution,
    work: Workload,
    alone: Mapping[str, Rehearsal],
    scheduler: str | None,
) -> tuple[float, dict[str, float]]:
    """The duration of a study in one Execution.

    Ray starts the trials in their order, the next one as soon as one ends. This is simulated. A
    process that goes on to the next trial starts once and warms up once for each graph.

    Args:
        execution: The manner in which all trials run.
        work: The study's trials.
        alone: The Rehearsal of each arm.
        scheduler: The scheduler that may stop trials; None or "none" without one.

    Returns:
        The seconds of the study, and those of a trial of each arm.
    """
    arms, reused = work.used_arms, reuses_processes(scheduler)
    # All but the first may have been rehearsed in one process, which had started already.
    start_s = max(rehearsal.start_s for rehearsal in alone.values())
    graphs = {arm: graph_of(config) for arm, config in arms.items()}
    each_s = {arm: 0.0 if reused else start_s + alone[arm].warm_up_s for arm in arms}
    trial_s = {
        arm: each_s[arm] + _trial_seconds(config, alone[arm], execution, work.data)
        for arm, config in arms.items()
    }
    slots = [_Slot(start_s if reused else 0.0) for _ in range(execution.resources.at_once)]
    for trial in work.trials:
        slot, graph = min(slots, key=lambda slot: slot.free_s), graphs[trial.arm]
        if reused and graph not in slot.warm:
            slot.free_s += alone[trial.arm].warm_up_s
        slot.warm.add(graph)
        slot.free_s += trial_s[trial.arm]
    return max(slot.free_s for slot in slots), trial_s


@dataclass
class _Slot:
    """A process, or a place for one, that runs trial after trial."""

    free_s: float
    """When it is free again."""
    warm: set[str] = field(default_factory=set)
    """The graphs that it has run."""


def optimizer_steps(config: Config) -> int:
    """The optimiser steps of a whole training."""
    return config.train.epochs * config.train.steps_per_epoch


def checkpoint_bytes(config: Config, rehearsal: Rehearsal) -> int:
    """The checkpoints of one trial: the best, the last, and the copies kept on the way."""
    every = config.train.keep_every_epochs
    kept = config.train.epochs // every if every else 0
    return (1 + kept) * rehearsal.weights_bytes + rehearsal.resume_bytes


def _trial_seconds(
    config: Config, rehearsal: Rehearsal, execution: Execution, data: Split
) -> float:
    """Seconds of a trial from its first step to its last score."""
    train = config.train
    validations = math.ceil(train.epochs / train.validate_every_epochs)
    shared = max(1.0, execution.slowdown)  # evaluation is never compiled, but shares the device
    tested = len(data.test) + min(len(data.validation), 2)  # and the two cases of a picture
    evaluation = (
        validations * len(data.validation) * rehearsal.validate_case_s
        + tested * rehearsal.test_case_s
    )
    loader_restarts = train.epochs if config.learning.hard_case_factor > 1 else 1
    return (
        optimizer_steps(config) * rehearsal.step_s * execution.slowdown
        + loader_restarts * rehearsal.epoch_s
        + shared * evaluation
    )
