"""One trial, as Ray runs it in a process of its own: train, judge, and tell MLflow and Ray."""

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from ray import tune

from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.orchestration.run_log import FOLDER_TAG
from segmamba.orchestration.tracking import trial_log
from segmamba.training.run import judge_run, train_run
from segmamba.training.run_folder import RunFolder
from segmamba.training.step import compile_decision


@dataclass(frozen=True)
class StudyContext:
    """What all trials of a study share; travels to every trial's process."""

    configs: dict
    """Arm name to Config; the trial adds its seed."""
    data: Split
    """Of PreparedCases."""
    folder: Path
    """The study's; each trial has a folder of its own below `trials/`."""
    mlflow_uri: str
    experiment_id: str
    parent_run_id: str
    tags: dict
    threads: int
    """CPU threads for torch in one trial."""


def trial_folder(study_folder, arm, seed):
    return Path(study_folder) / "trials" / f"{arm}_seed{seed}".replace(" ", "-")


def run_trial(assignment, context):
    """Ray's function trainable. `assignment` is {"trial": TrialPlan}.

    An exception is a finding: it is written down and the trial ends as failed. A process that dies is an accident: Ray starts
    the trial again and it goes on from its own last checkpoint.
    """
    plan = assignment["trial"]
    torch.set_num_threads(context.threads)
    config = context.configs[plan.arm].changed({"seed": plan.seed})
    folder = RunFolder(trial_folder(context.folder, plan.arm, plan.seed))
    device = choose_device()
    tags = context.tags | {"arm": plan.arm, "seed": str(plan.seed), FOLDER_TAG: str(folder.root)}
    tags |= {"execution": compile_decision(config, device)[1]}
    log = trial_log(context.mlflow_uri, context.experiment_id, context.parent_run_id, plan.key, tags)
    try:
        final = _train_and_judge(config, context.data, folder, device, log)
    except Exception as error:
        final = _failed(folder, " ".join(f"{type(error).__name__}: {error}".split())[:500], traceback.format_exc(), log)
    if not log.close() and "failed" not in final:
        final = _failed(folder, f"MLflow did not answer ({log.away_because}); --resume sends what it lacks", log.away_because)
    tune.report(final)


def _train_and_judge(config, data, folder, device, log):
    """What the trial reports at its end."""
    log.log_config(config.to_flat_dict())
    log.log_data(data)
    log.log_history(folder.read_history(config.train.epochs))  # saved, but the process died before MLflow had it
    for epoch in train_run(config, data, folder, device):
        log.log_epoch(epoch.metrics, epoch.number)
        tune.report({"epoch": epoch.number, "epochs": config.train.epochs} | epoch.metrics)
    metrics, rows = judge_run(config, data, folder, device)
    log.log_metrics(metrics, config.train.epochs)
    log.log_judge_cases(rows)
    log.log_files(sorted(folder.plots.glob("*.png")), "plots")
    log.log_files([folder.config, folder.final_metrics], None)
    return {"epoch": config.train.epochs, "epochs": config.train.epochs} | metrics


def _failed(folder, reason, details, log=None):
    """What a failed trial reports; `log` tells MLflow the reason too."""
    file = folder.logs / "error.txt"
    file.write_text(details)
    if log:
        log.log_reason(f"{reason} (see {file})")
    return {"epoch": 0, "failed": reason, "log": str(file)}
