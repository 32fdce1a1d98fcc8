"""How long a study will take and how much disk it will need, computed from Rehearsals."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from segmamba.orchestration.engine.executions import Execution, Workload
from segmamba.orchestration.engine.resources import reuses_processes

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

    Ray starts the trials in their order, the next one as soon as one ends. This is simulated.

    Args:
        execution: The manner in which all trials run.
        work: The study's trials.
        alone: The Rehearsal of each arm.
        scheduler: The scheduler that may stop trials; None or "none" without one.

    Returns:
        The seconds of the study, and those of a trial of each arm.
    """
    arms = work.used_arms
    # All but the first may have been rehearsed in one process, which had started already.
    start_s = max(rehearsal.start_s for rehearsal in alone.values())
    each_s = 0.0 if reuses_processes(execution.resources, scheduler) else start_s
    trial_s = {
        arm: each_s + _trial_seconds(config, alone[arm], execution, work.data)
        for arm, config in arms.items()
    }
    slots = [start_s - each_s] * execution.resources.at_once  # when each is free again
    compiled = {_compiled_network(next(iter(arms.values()))): 0.0}  # when the cache has it
    for trial in work.trials:
        began, network = slots[0], _compiled_network(arms[trial.arm])
        missing_s = execution.compile_s if began < compiled.get(network, math.inf) else 0.0
        compiled.setdefault(network, began + missing_s)
        heapq.heapreplace(slots, began + trial_s[trial.arm] + missing_s)
    return max(slots), trial_s


def optimizer_steps(config: Config) -> int:
    """The optimiser steps of a whole training."""
    return config.train.epochs * config.train.steps_per_epoch


def checkpoint_bytes(config: Config, rehearsal: Rehearsal) -> int:
    """The checkpoints of one trial: the best, the last, and the copies kept on the way."""
    every = config.train.keep_every_epochs
    kept = config.train.epochs // every if every else 0
    return (1 + kept) * rehearsal.weights_bytes + rehearsal.resume_bytes


def _compiled_network(config: Config) -> tuple[object, ...]:
    """The settings that decide what the compiler makes; equal ones share its cache."""
    hard_cases = config.learning.hard_case_factor > 1
    return (
        config.model,
        config.loss,
        config.data.patch_size,
        config.train.batch_size,
        config.train.precision,
        hard_cases,
    )


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
        + execution.warm_up_s
    )
