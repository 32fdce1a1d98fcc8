"""One trial, as Ray runs it in a worker process: train, test, and report to MLflow and Ray."""

import dataclasses
import functools
import os
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from segmamba.config import Config
from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.disks import disk_line, disk_reason, gone_line, is_gone
from segmamba.errors import UserError
from segmamba.files import seen_from
from segmamba.orchestration.engine.context import StudyContext, trial_folder
from segmamba.orchestration.engine.failures import ALL_LEVELS, assess, read_failures
from segmamba.orchestration.engine.one_thread import OneThread
from segmamba.orchestration.engine.population_member import (
    join_population,
    parts,
    report_again,
    report_epoch,
)
from segmamba.orchestration.tracking.run_log import FOLDER_TAG, RunLog
from segmamba.orchestration.tracking.store import patience_s
from segmamba.orchestration.tracking.tracked_run import TrackedRun
from segmamba.redaction import redacted
from segmamba.studies.spec import Stage, TrialPlan
from segmamba.training.compiler_cache import CompilerCache
from segmamba.training.compiling import (
    compiler_record,
    decision_of_run,
    forget_compiled,
    free_memory,
)
from segmamba.training.record import record_environment
from segmamba.training.run import SAVED
from segmamba.training.run_folder import RunFolder
from segmamba.training.saving import AtOnce, saver_for

LESS_MEMORY_TAG = "activation_checkpointing"


class Infeasible(UserError):
    """A trial that this device cannot run, however often it is tried."""


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A trial with what its process needs to run it."""

    plan: TrialPlan
    stages: tuple[Stage, ...]
    folder: RunFolder
    device: torch.device
    log: RunLog


_THREAD = OneThread()


def run_trial(assignment: dict[str, TrialPlan], context: StudyContext) -> None:
    """Run a trial: Ray's function trainable.

    All trials of a process run in one thread.

    An exception is a result: it is written down and the trial ends as failed. A UserError says
    that the trial cannot run here at all. A process that dies is an accident: Ray starts the trial
    again, and it goes on from its own last checkpoint.

    Args:
        assignment: {"trial": TrialPlan}.
        context: What all trials of the study share.
    """
    _THREAD.run(functools.partial(_run, assignment["trial"], context))


def _run(plan: TrialPlan, context: StudyContext) -> None:
    log = None
    torch.set_num_threads(context.threads)
    root = trial_folder(context.folder, plan)
    try:
        # It is not made anew: where it was removed, the study is over.
        context.folder.stat()
        config, device = context.config(plan), _sound_device()
        if context.compiler:
            CompilerCache(Path(context.compiler)).use(context.threads)
        tags = context.trial_tags(plan) | {
            FOLDER_TAG: str(root),
            "execution": decision_of_run(config, device, root)[1],
        }
        log = context.run.trial_log(plan.key, tags)
        log.log_config(config.to_flat_dict())
        trial = _Trial(plan, context.stages(plan), RunFolder(root), device, log)
        join_population(plan, trial.folder, log)
        report = _with_enough_memory(trial, config, context.split(plan))
    except UserError as error:
        report = _failed(context, root, str(error), log) | {"infeasible": True}
    except Exception as error:
        gone = is_gone(error, context.folder)
        report = _failed(context, root, gone_line(context.folder) if gone else _reason(error), log)
    hopeless = disk_reason(report.get("failed", "")) or not context.folder.is_dir()
    if log and not log.close(2.0 if hopeless else patience_s()) and "failed" not in report:
        reason = f"MLflow did not answer ({log.away_because}); --resume sends what it lacks"
        report = _failed(context, root, reason, details=log.away_because)
    free_memory()  # for the next trial of this process
    tune.report(report)


def _sound_device() -> torch.device:
    """The device of this trial.

    Its process may have run another trial, whose last act was an illegal access to the GPU. CUDA
    does not recover from that. The process ends, and Ray starts the trial in a new one.
    """
    device = choose_device()
    if device.type == "cuda" and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            os._exit(1)
    return device


def _with_enough_memory(trial: _Trial, config: Config, data: Split) -> dict[str, Any]:
    """Train and test; once more with activation checkpointing where the memory is too small.

    Raises:
        Infeasible: It is too small even so.
    """
    decision = assess(read_failures(trial.folder.root))
    if decision.hopeless:
        raise (Infeasible if decision.memory else RuntimeError)(decision.hopeless)
    reason = "its process was killed for want of memory"
    if not decision.checkpoint:
        try:
            return _train_and_test(trial, config, data)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = _reason(error)
        # Outside the handler: the exception held the frames, and they held the tensors.
        forget_compiled()  # the graphs of trials before this one take memory, too
    config = with_less_memory(config, reason)
    trial.log.log_tags({LESS_MEMORY_TAG: f"all levels, because {reason}"})
    try:
        return _train_and_test(trial, config, data)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise Infeasible(
                f"out of memory, also with activation checkpointing: {_reason(error)}"
            ) from error
        raise


def _train_and_test(trial: _Trial, config: Config, data: Split) -> dict[str, Any]:
    """Run the trial to its end: what it reports there.

    The training loop is `segmamba.training.fit.fit`; `TrackedRun` saves and logs what it yields.
    """
    plan, folder, epochs = trial.plan, trial.folder, config.train.epochs
    record_environment(folder, data, trial.device, len(folder.read_history(epochs)))
    run = TrackedRun(data, folder, trial.device, trial.log)
    run.begin(config)
    history = folder.read_history(epochs)  # of a trial that was trained before it was resumed
    report: dict[str, Any] = dict(history[-1]) if history else {}
    for part, until in parts(config, trial.stages, folder):
        if plan.round_every:
            report_again(folder, trial.stages[-1].epoch, plan.round_every, config)
        # The other members of a population copy the checkpoint of a round as soon as it is there.
        saver = AtOnce() if plan.round_every else saver_for(trial.device)
        for epoch in run.train(part, saver=saver):
            report = {"epoch": epoch.number, "epochs": epochs} | epoch.metrics
            report_epoch(report, folder, plan.round_every)
            if epoch.number == until < epochs:
                break
    report |= {"epoch": epochs, "epochs": epochs}
    trial.log.log_tags(compiler_record())
    if plan.changes is None:  # only the validation set sees what a search tries
        report |= run.test(config).metrics
    else:
        run.settle()
    return report


def with_less_memory(config: Config, reason: str) -> Config:
    """Return the Config with activation checkpointing of all levels, which changes no result.

    Args:
        config: That of a trial which ran out of memory.
        reason: How it ran out, for the message.

    Raises:
        Infeasible: The network has no checkpointing, or has it already.
    """
    if config.model.checkpoint_stages == ALL_LEVELS:
        raise Infeasible(f"out of memory, also with activation checkpointing: {reason}")
    try:
        return config.changed({"model.checkpoint_stages": ALL_LEVELS})
    except UserError as error:  # somebody else's network
        raise Infeasible(
            f"out of memory, and {config.model.name} has no activation checkpointing: {reason}"
        ) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is a device's or the machine's memory running out."""
    exhausted = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return exhausted or "can't allocate memory" in str(error)


def _failed(
    context: StudyContext, root: Path, reason: str, log: RunLog | None = None, details: str = ""
) -> dict[str, Any]:
    """What a failed trial reports.

    `log` gets the reason too, with the paths as they are seen from the study's folder. `details`
    are written to a file; empty takes the traceback of the error that is being handled.
    """
    file: Path | str = root / "logs" / "error.txt"
    try:
        Path(file).write_text(
            redacted(details or traceback.format_exc()), encoding="utf-8", errors="backslashreplace"
        )
    except OSError as error:  # a full disk: the reason still reaches the driver, and perhaps MLflow
        file = f"none ({error.strerror})"
    if log:
        log.log_reason(seen_from(context.folder, f"{reason} (see {file})"))
    return {"epoch": 0, "failed": reason, "log": str(file)}


def _reason(error: BaseException) -> str:
    """An exception in one line."""
    if disk_reason(error):
        return redacted(disk_line(error, SAVED))
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:500]
