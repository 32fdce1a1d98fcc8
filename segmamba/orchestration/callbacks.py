"""The driver's ear: what Ray says of trials becomes final statuses in MLflow and lines on the screen."""

from pathlib import Path

from ray import tune

from segmamba.orchestration.progress import SilentProgress
from segmamba.orchestration.tracking import INFEASIBLE_TAG, STOPPED_TAG, end_trial


class FinishRuns(tune.Callback):
    """Gives each trial's MLflow run its final status and passes events on to the progress display."""

    def __init__(self, context, progress):
        self.context, self.progress = context, progress

    def __getstate__(self):
        return {"context": self.context, "progress": SilentProgress()}  # Ray stores its callbacks; a terminal cannot be stored

    def on_trial_start(self, iteration, trials, trial, **info):
        self.progress.started(trial.config["trial"].key)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "failed" not in result:
            self.progress.reported(trial.config["trial"].key, result)

    def on_trial_complete(self, iteration, trials, trial, **info):
        plan, last = trial.config["trial"], trial.last_result
        if "failed" in last:
            self.progress.failed(plan.key, last["failed"], last["log"])
            end_trial(self.context, plan, "FAILED", marks={INFEASIBLE_TAG: "yes"} if last.get("infeasible") else None)
        elif last["epoch"] < last["epochs"]:
            reason = f"stopped by the scheduler after epoch {last['epoch']} of {last['epochs']}: others were better on minival"
            self.progress.stopped(plan.key, reason)
            end_trial(self.context, plan, "FINISHED", reason=reason, marks={STOPPED_TAG: "asha"})
        else:
            self.progress.completed(plan.key)
            end_trial(self.context, plan, "FINISHED")

    def on_trial_error(self, iteration, trials, trial, **info):
        plan, reason = trial.config["trial"], f"the trial's process died twice: {_last_line(trial)}"
        self.progress.failed(plan.key, reason, trial.error_file or trial.local_path)
        end_trial(self.context, plan, "FAILED", reason=reason)


def _last_line(trial):
    """What Ray says of the end of a trial, in one line."""
    lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
    return lines[-1].strip()[:300] if lines else "killed, or out of memory"
