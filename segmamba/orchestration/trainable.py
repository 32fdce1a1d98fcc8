"""One trial, as Ray runs it in a process of its own: train, judge, and tell MLflow and Ray."""

import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from ray import tune

from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.orchestration.tracking import FOLDER_TAG, TrialTracker
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
    tracker = TrialTracker(context.mlflow_uri, context.experiment_id, context.parent_run_id, plan.key, tags)
    try:
        _train_and_judge(config, context.data, folder, device, tracker)
    except Exception as error:
        log = folder.logs / "error.txt"
        log.write_text(traceback.format_exc())
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        tracker.log_reason(f"{reason} (see {log})")
        tune.report({"epoch": 0, "failed": reason, "log": str(log)})


def _train_and_judge(config, data, folder, device, tracker):
    tracker.log_config(config.to_flat_dict())
    tracker.log_data(data)
    logged = tracker.logged_epochs()
    for entry in folder.read_history(config.train.epochs):  # saved, but the process died before MLflow had it
        if entry["epoch"] not in logged:
            tracker.log_metrics({name: value for name, value in entry.items() if name != "epoch"}, entry["epoch"])
            logged.add(entry["epoch"])
    for epoch in train_run(config, data, folder, device):
        if epoch.number not in logged:
            tracker.log_metrics(epoch.metrics, epoch.number)
        tune.report({"epoch": epoch.number, "epochs": config.train.epochs} | epoch.metrics)
    metrics, rows = judge_run(config, data, folder, device)
    tracker.log_metrics(metrics, config.train.epochs)
    tracker.log_judge_cases(rows)
    tracker.log_files(sorted(folder.plots.glob("*.png")), "plots")
    tracker.log_files([folder.config, folder.final_metrics], None)
    tune.report({"epoch": config.train.epochs, "epochs": config.train.epochs} | metrics)
