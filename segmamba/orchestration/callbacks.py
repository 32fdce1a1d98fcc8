"""The driver's ear: what Ray says of trials becomes final statuses in MLflow and lines on the screen."""

from pathlib import Path

from ray import tune

from segmamba.orchestration.progress import SilentProgress
from segmamba.orchestration.tracking import end_trial


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
        failed = trial.last_result.get("failed")
        if failed:
            self.progress.failed(trial.config["trial"].key, failed, trial.last_result["log"])
        else:
            self.progress.completed(trial.config["trial"].key)
        self._end(trial, "FAILED" if failed else "FINISHED")

    def on_trial_error(self, iteration, trials, trial, **info):
        reason = f"the trial's process died twice: {_last_line(trial)}"
        self.progress.failed(trial.config["trial"].key, reason, trial.error_file or trial.local_path)
        self._end(trial, "FAILED", reason)

    def _end(self, trial, status, reason=""):
        c, plan = self.context, trial.config["trial"]
        tags = c.tags | {"arm": plan.arm, "seed": str(plan.seed)}
        end_trial(c.mlflow_uri, c.experiment_id, c.parent_run_id, plan.key, status, tags, reason)


def _last_line(trial):
    """What Ray says of the end of a trial, in one line."""
    lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
    return lines[-1].strip()[:300] if lines else "killed, or out of memory"
