"""One trial, as Ray runs it in a worker process: train, test, and tell MLflow and Ray."""

import gc
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from ray import tune

from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.orchestration.engine.caching import split_on_this_node
from segmamba.orchestration.engine.failures import ALL_LEVELS, deaths, fate
from segmamba.orchestration.engine.population_member import (
    join_population,
    parts,
    report_again,
    report_epoch,
)
from segmamba.orchestration.tracking.patience import is_full
from segmamba.orchestration.tracking.run_log import FOLDER_TAG, PATIENCE_S
from segmamba.orchestration.tracking.runs import trial_log, trial_tags
from segmamba.studies.spec import FOUND
from segmamba.training.record import record_environment
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder
from segmamba.training.step import compile_decision

LESS_MEMORY_TAG = "activation_checkpointing"


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share; travels to every trial's process."""

    configs: dict
    """Arm name to Config; the trial adds its seed and fold. A search's trials change that of `baseline`."""
    folds: dict
    """Fold to (dotted changes of the configuration, Split of PreparedCases); the one key is None where there are no folds."""
    folder: Path
    """The study's; each trial has a folder of its own below `trials/`."""
    mlflow_uri: str
    experiment_id: str
    parent_run_id: str
    tags: dict
    threads: int
    """CPU threads for torch in one trial."""
    compile: str
    """What every trial's `train.compile` is: all arms run the same way."""
    baseline: str
    cases: tuple = ()
    """The Cases of all splits, where each node has a cache of its own ..."""
    cache: str | None = None
    """... here."""
    schedule: tuple = ()
    """The Stages that population-based training found: how the arm FOUND trains; () is with the same settings throughout."""

    def stages(self, plan):
        """A TrialPlan's Stages, the first from epoch 0 on; () where its settings never change."""
        return plan.stages or (self.schedule if plan.arm == FOUND else ())

    def config(self, plan):
        """The Config of a TrialPlan, as it begins; an arm with a seed of its own counts from there."""
        stages = self.stages(plan)
        changes = stages[0].changes if stages else plan.changes
        config = (
            self.configs[self.baseline].changed(changes)
            if changes is not None
            else self.configs[plan.arm]
        )
        return config.changed(
            {"seed": config.seed + plan.seed, "train.compile": self.compile}
            | self.folds[plan.fold][0]
        )

    def split(self, plan):
        """Of this node's PreparedCases."""
        split = self.folds[plan.fold][1]
        return (
            split
            if self.cache is None
            else split_on_this_node(split, self.cases, self.cache, self.config(plan).data)
        )


def trial_folder(study_folder, plan):
    name = f"{plan.arm}_seed{plan.seed}" + (f"_fold{plan.fold}" if plan.fold is not None else "")
    return Path(study_folder) / "trials" / name.replace(" ", "-").replace("/", "-")


class Infeasible(UserError):
    """A trial that this device cannot run, however often it is tried."""


def run_trial(assignment, context):
    """Ray's function trainable. `assignment` is {"trial": TrialPlan}.

    An exception is a finding: it is written down and the trial ends as failed; what a UserError says cannot run here at all. A process
    that dies is an accident: Ray starts the trial again and it goes on from its own last checkpoint.
    """
    plan, log = assignment["trial"], None
    torch.set_num_threads(context.threads)
    root = trial_folder(context.folder, plan)
    try:
        config, folder, device = context.config(plan), RunFolder(root), choose_device()
        tags = trial_tags(context, plan) | {
            FOLDER_TAG: str(root),
            "execution": compile_decision(config, device)[1],
        }
        log = trial_log(context, plan, tags)
        log.log_config(config.to_flat_dict())
        stages = context.stages(plan)
        join_population(plan, folder, log)
        final = _with_less_memory_if_need_be(
            config,
            folder,
            log,
            lambda config: _outcome(config, stages, context.split(plan), plan, folder, device, log),
        )
    except UserError as error:
        final = _failed(root, str(error), traceback.format_exc(), log) | {"infeasible": True}
    except Exception as error:
        final = _failed(root, _reason(error), traceback.format_exc(), log)
    patience_s = 2.0 if is_full(final.get("failed", "")) else PATIENCE_S
    if log and not log.close(patience_s) and "failed" not in final:
        final = _failed(
            root,
            f"MLflow did not answer ({log.away_because}); --resume sends what it lacks",
            log.away_because,
        )
    tune.report(final)


def _with_less_memory_if_need_be(config, folder, log, outcome):
    """outcome(config); once more with activation checkpointing where the memory does not do. Raises Infeasible."""
    told = fate(deaths(folder.root))
    if told.hopeless:
        raise Infeasible(told.hopeless) if told.memory else RuntimeError(told.hopeless)
    reason = "its process was killed for want of memory"
    if not told.checkpoint:
        try:
            return outcome(config)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            reason = _reason(error)
        gc.collect()  # outside the handler: the exception held the frames, and they held the tensors
        torch.cuda.empty_cache()
    config = with_less_memory(config, reason)
    log.log_tags({LESS_MEMORY_TAG: f"all levels, because {reason}"})
    try:
        return outcome(config)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            raise Infeasible(
                f"out of memory, also with activation checkpointing: {_reason(error)}"
            ) from error
        raise


def with_less_memory(config, reason):
    """The Config with activation checkpointing of all levels, which changes no result. Raises Infeasible where the network has none."""
    if config.model.checkpoint_stages == ALL_LEVELS:
        raise Infeasible(f"out of memory, also with activation checkpointing: {reason}")
    try:
        return config.changed({"model.checkpoint_stages": ALL_LEVELS})
    except UserError as error:  # somebody else's network
        raise Infeasible(
            f"out of memory, and {config.model.name} has no activation checkpointing: {reason}"
        ) from error


def out_of_memory(error):
    """Whether an exception is a device's or the machine's memory running out."""
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "can't allocate memory" in str(error)


def _outcome(config, stages, data, plan, folder, device, log):
    """What the trial reports at its end."""
    final = _train(config, stages, data, plan.round_every, folder, device, log)
    if plan.changes is None:  # validation alone sees what a search tries
        final |= _test(config, data, folder, device, log)
    log.log_files(sorted(folder.plots.glob("*.png")), "plots")
    return final


def _train(config, stages, data, round_every, folder, device, log):
    """What training alone reports at its end."""
    log.log_data(data)
    record_environment(folder, data, device, len(folder.read_history(config.train.epochs)))
    log.log_files([folder.config, folder.environment], None)
    last = {}
    for part, until in parts(config, stages, folder):
        if round_every:
            report_again(folder, stages[-1].epoch, round_every, config)
        for epoch in train_run(part, data, folder, device):
            log.log_history(
                folder.read_history(epoch.number)
            )  # with what was saved before, should the process have died before MLflow had it
            last = {"epoch": epoch.number, "epochs": config.train.epochs} | epoch.metrics
            report_epoch(last, folder, round_every)
            if epoch.number == until < config.train.epochs:
                break
    log.log_history(folder.read_history(config.train.epochs))
    return last | {"epoch": config.train.epochs, "epochs": config.train.epochs}


def _test(config, data, folder, device, log):
    result = evaluate_run(config, data, folder, device)
    log.log_metrics(result.metrics, config.train.epochs)
    log.log_test_cases(result.cases_with_last())
    log.log_files([folder.final_metrics], None)
    return result.metrics


def _failed(root, reason, details, log=None):
    """What a failed trial reports; `log` tells MLflow the reason too."""
    file = root / "logs" / "error.txt"
    try:
        file.write_text(details)
    except OSError as error:  # the disk is full, most likely: the reason still reaches the driver and, where it is elsewhere, MLflow
        file = f"none ({error.strerror})"
    if log:
        log.log_reason(f"{reason} (see {file})")
    return {"epoch": 0, "failed": reason, "log": str(file)}


def _reason(error):
    """An exception in one line."""
    if is_full(error):
        return f"the disk is full ({error}); the last checkpoint is intact, and --resume goes on from it"[
            :500
        ]
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
