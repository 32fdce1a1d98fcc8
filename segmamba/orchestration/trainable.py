"""One trial, as Ray runs it in a process of its own: train, judge, and tell MLflow and Ray."""

import json
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from ray import tune

from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.orchestration.run_log import FOLDER_TAG
from segmamba.orchestration.tracking import trial_log, trial_tags
from segmamba.training.run import judge_run, train_run
from segmamba.training.run_folder import RunFolder
from segmamba.training.step import compile_decision


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
    baseline: str

    def config(self, plan):
        """The Config of a TrialPlan."""
        config = self.configs[self.baseline].changed(plan.changes) if plan.changes is not None else self.configs[plan.arm]
        return config.changed({"seed": plan.seed} | self.folds[plan.fold][0])

    def split(self, plan):
        return self.folds[plan.fold][1]


def trial_folder(study_folder, plan):
    name = f"{plan.arm}_seed{plan.seed}" + (f"_fold{plan.fold}" if plan.fold is not None else "")
    return Path(study_folder) / "trials" / name.replace(" ", "-").replace("/", "-")


def run_trial(assignment, context):
    """Ray's function trainable. `assignment` is {"trial": TrialPlan}.

    An exception is a finding: it is written down and the trial ends as failed; what a UserError says cannot run here at all. A process
    that dies is an accident: Ray starts the trial again and it goes on from its own last checkpoint.
    """
    plan = assignment["trial"]
    torch.set_num_threads(context.threads)
    config, data = context.config(plan), context.split(plan)
    folder = RunFolder(trial_folder(context.folder, plan))
    device = choose_device()
    tags = trial_tags(context, plan) | {FOLDER_TAG: str(folder.root), "execution": compile_decision(config, device)[1]}
    log = trial_log(context, plan, tags)
    try:
        final = _train(config, data, folder, device, log)
        if plan.changes is None:  # minival alone sees what a search tries
            final |= _judge(config, data, folder, device, log)
        log.log_files(sorted(folder.plots.glob("*.png")), "plots")
    except UserError as error:
        final = _failed(folder, str(error), traceback.format_exc(), log) | {"infeasible": True}
    except Exception as error:
        final = _failed(folder, " ".join(f"{type(error).__name__}: {error}".split())[:500], traceback.format_exc(), log)
    if not log.close() and "failed" not in final:
        final = _failed(folder, f"MLflow did not answer ({log.away_because}); --resume sends what it lacks", log.away_because)
    tune.report(final)


def _train(config, data, folder, device, log):
    """What the trial reports at its end."""
    log.log_config(config.to_flat_dict())
    log.log_data(data)
    log.log_history(folder.read_history(config.train.epochs))  # saved, but the process died before MLflow had it
    last = {}
    for epoch in train_run(config, data, folder, device):
        log.log_epoch(epoch.metrics, epoch.number)
        last = {"epoch": epoch.number, "epochs": config.train.epochs} | epoch.metrics
        tune.report(last)
    log.log_files([folder.config], None)
    return last | {"epoch": config.train.epochs, "epochs": config.train.epochs}


def _judge(config, data, folder, device, log):
    metrics, rows = judge_run(config, data, folder, device)
    log.log_metrics(metrics, config.train.epochs)
    log.log_judge_cases(_with_last(rows, json.loads(folder.final_metrics.read_text()).get("last_cases")))
    log.log_files([folder.final_metrics], None)
    return metrics


def _with_last(rows, last_rows):
    """The per-case rows with the last checkpoint's scores beside them, as last_..., where it was judged."""
    by_case = {row["case"]: row for row in last_rows or ()}
    return [row | {f"last_{name}": value for name, value in by_case.get(row["case"], {}).items() if name != "case"} for row in rows]


def _failed(folder, reason, details, log=None):
    """What a failed trial reports; `log` tells MLflow the reason too."""
    file = folder.logs / "error.txt"
    file.write_text(details)
    if log:
        log.log_reason(f"{reason} (see {file})")
    return {"epoch": 0, "failed": reason, "log": str(file)}
