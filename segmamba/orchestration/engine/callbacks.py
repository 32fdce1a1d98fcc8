"""The driver's ear: what Ray says of trials becomes final statuses in MLflow and lines on the screen."""

import functools
from pathlib import Path

from mlflow.exceptions import MlflowException
from ray import tune

from segmamba.orchestration.engine.context import trial_folder
from segmamba.orchestration.engine.failures import (
    assess,
    failures_file,
    read_failures,
    record_failure,
)
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking.outbox import Outbox
from segmamba.orchestration.tracking.patience import retry
from segmamba.orchestration.tracking.runs import INFEASIBLE_TAG, STOPPED_TAG, end_trial


class FinishRuns(tune.Callback):
    """Gives each trial's MLflow run its final status and passes events on to the progress display.

    Ray's loop never waits for MLflow: statuses go through an outbox, and `settle` waits for it once all trials are over.
    """

    def __init__(self, context, progress):
        self.context, self.progress, self._outbox, self._endings = context, progress, Outbox(), []
        self._told = {}  # trial to its Stages that were told of

    def __getstate__(self):
        return {
            "context": self.context,
            "progress": SilentProgress(),
        }  # Ray stores its callbacks; a terminal cannot be stored

    def on_trial_start(self, iteration, trials, trial, **info):
        plan = trial.config["trial"]
        self.progress.started(plan.key)
        for stage in plan.stages[self._told.get(plan.key, len(plan.stages)) :]:
            self.progress.say(
                f"copy     {plan.arm} takes the weights of {stage.donor} after epoch {stage.epoch} and changes its settings"
            )
        self._told[plan.key] = len(plan.stages)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if "failed" not in result:
            self.progress.reported(trial.config["trial"].key, result)

    def on_trial_complete(self, iteration, trials, trial, **info):
        plan, last = trial.config["trial"], trial.last_result
        if "failed" in last:
            self.progress.failed(plan.key, last["failed"], last["log"])
            self._end(
                plan, "FAILED", marks={INFEASIBLE_TAG: "yes"} if last.get("infeasible") else None
            )
        elif last["epoch"] < last["epochs"]:
            reason = f"stopped by the scheduler after epoch {last['epoch']} of {last['epochs']}: others were better on the validation set"
            self.progress.stopped(plan.key, reason)
            self._end(plan, "FINISHED", reason=reason, marks={STOPPED_TAG: "asha"})
        else:
            self.progress.completed(plan.key)
            self._end(plan, "FINISHED")

    def on_trial_recover(self, iteration, trials, trial, **info):
        """The process died and Ray will start it again: it reads there what it died of."""
        if self._note_death(trial):
            trial.max_failures = 0  # the next death is the last

    def on_trial_error(self, iteration, trials, trial, **info):
        self._note_death(trial)
        plan = trial.config["trial"]
        folder = trial_folder(self.context.folder, plan)
        failures = read_failures(folder)
        decision = assess(failures)
        reason = (
            decision.hopeless or f"its process died {len(failures)} times: {failures[-1].reason}"
        )
        self.progress.failed(plan.key, reason, failures_file(folder))
        self._end(
            plan,
            "FAILED",
            reason=reason,
            marks={INFEASIBLE_TAG: "yes"} if decision.memory else None,
        )

    def settle(self):
        """Wait until MLflow knows how every trial ended. StudyHalted where it stays away: `--resume` puts that right.

        What it refuses of one trial is raised once it has been told of all others.
        """
        if self._outbox.close(2.0):
            return
        refused = []
        for ending in self._endings:
            try:
                retry(ending, self.progress.say, uri=self.context.mlflow_uri)
            except MlflowException as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def _note_death(self, trial):
        done = (trial.last_result or {}).get("epoch", 0)
        return record_failure(
            trial_folder(self.context.folder, trial.config["trial"]), done, _last_error(trial)
        )

    def _end(self, plan, status, **how):
        ending = functools.partial(end_trial, self.context, plan, status, **how)
        self._endings.append(ending)
        self._outbox.offer(
            ending
        )  # a refusal raised here would be taken for this trial's failure; `settle` raises it


def _last_error(trial):
    """What Ray tells of the trial's last failure."""
    text = (
        Path(trial.error_file).read_text()
        if trial.error_file and Path(trial.error_file).exists()
        else ""
    )
    return text.rpartition("Failure #")[2]
