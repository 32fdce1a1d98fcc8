"""What Ray says of trials, as final statuses in MLflow and lines on the screen."""

import functools
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from ray import tune
from ray.tune.experiment import Trial

from segmamba.disks import disk_reason
from segmamba.files import seen_from
from segmamba.orchestration.engine.context import StudyContext, trial_folder
from segmamba.orchestration.engine.failures import (
    assess,
    failures_file,
    read_failures,
    record_failure,
)
from segmamba.orchestration.engine.progress import ProgressDisplay
from segmamba.orchestration.tracking.outbox import Outbox
from segmamba.orchestration.tracking.run_log import STOPPED_TAG
from segmamba.orchestration.tracking.store import StudyHalted
from segmamba.orchestration.tracking.study_run import INFEASIBLE_TAG
from segmamba.studies.spec import TrialPlan


class FinishRuns(tune.Callback):
    """Gives each trial's MLflow run its final status and passes events on to the progress display.

    Ray's loop never waits for MLflow: statuses go through an outbox, and `settle` waits for it once
    all trials are over.
    """

    def __init__(self, context: StudyContext, progress: ProgressDisplay) -> None:
        """Watch the trials of a study.

        Args:
            context: What its trials share.
            progress: A StudyProgress or its null object.
        """
        self.context, self.progress, self._outbox = context, progress, Outbox()
        self._halted: StudyHalted | None = None
        self._endings: list[functools.partial[None]] = []
        self._stages_said: dict[str, int] = {}
        """Trial to the number of its Stages that were printed."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray stores of its callbacks: nothing, since a study goes on without it.

        The address of the store, which may hold a password, stays in memory.
        """
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Print that a trial runs, and which weights it has copied."""
        plan = _plan(trial)
        self.progress.started(plan.key)
        for stage in plan.stages[self._stages_said.get(plan.key, len(plan.stages)) :]:
            self.progress.say(
                f"copy     {plan.arm} takes the weights of {stage.donor} after epoch "
                f"{stage.epoch} and changes its settings"
            )
        self._stages_said[plan.key] = len(plan.stages)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: object,
    ) -> None:
        """Show an epoch."""
        if "failed" not in result:
            self.progress.reported(_plan(trial).key, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """End the run of a trial that reported its end or that a scheduler stopped."""
        plan, last = _plan(trial), trial.last_result
        if "failed" in last:
            self.progress.failed(plan.key, last["failed"], last["log"])
            marks = {INFEASIBLE_TAG: "yes"} if last.get("infeasible") else None
            self._end(plan, "FAILED", marks=marks)
            if disk_reason(last["failed"]):  # nor does it take another trial's files
                self._halted = StudyHalted(last["failed"])
        elif last["epoch"] < last["epochs"]:
            reason = (
                f"stopped by the scheduler after epoch {last['epoch']} of {last['epochs']}: "
                "others were better on the validation set"
            )
            self.progress.stopped(plan.key, reason)
            self._end(plan, "FINISHED", reason=reason, marks={STOPPED_TAG: "asha"})
        else:
            self.progress.completed(plan.key)
            self._end(plan, "FINISHED")
        _forget_numbers(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: object) -> None:
        """End the study where a trial has found that it cannot go on.

        Raises:
            StudyHalted: A disk takes no more. Raised for a trial, Tune would take it for its death.
        """
        if self._halted:
            raise self._halted

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Note why a process died; Ray starts the trial again, which reads it there."""
        if self._record_failure(trial):
            trial.max_failures = 0  # the next death is the last

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """End the run of a trial that Ray does not start again."""
        self._record_failure(trial)
        plan = _plan(trial)
        folder = trial_folder(self.context.folder, plan)
        failures = read_failures(folder)
        decision = assess(failures)
        reason = decision.hopeless or (
            f"its process died {len(failures)} times: {failures[-1].reason}"
        )
        self.progress.failed(plan.key, reason, failures_file(folder))
        marks = {INFEASIBLE_TAG: "yes"} if decision.memory else None
        shown = seen_from(self.context.folder, reason)
        self._end(plan, "FAILED", reason=shown, marks=marks)
        _forget_numbers(trial)

    def settle(self) -> None:
        """Wait until MLflow knows how every trial ended.

        Raises:
            StudyHalted: MLflow stays away; `--resume` puts that right.
            MlflowException: It refuses the status of a trial; all others have theirs by then.
        """
        if self._outbox.close(2.0):
            return
        refused = []
        for ending in self._endings:
            try:
                self.context.run.store.retry(ending, self.progress.say)
            except MlflowException as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def _record_failure(self, trial: Trial) -> bool:
        done = (trial.last_result or {}).get("epoch", 0)
        return record_failure(
            trial_folder(self.context.folder, _plan(trial)), done, _last_error(trial)
        )

    def _end(self, plan: TrialPlan, status: str, **how: Any) -> None:
        tags = functools.partial(self.context.trial_tags, plan)
        ending = functools.partial(self.context.run.end_trial, plan.key, status, tags=tags, **how)
        self._endings.append(ending)
        # Raised here, a refusal would be taken for this trial's failure; `settle` raises it.
        self._outbox.offer(ending)


def _plan(trial: Trial) -> TrialPlan:
    return trial.config["trial"]


def _forget_numbers(trial: Trial) -> None:
    """Free what Ray keeps of all numbers that a trial reported, about 50 kB a trial.

    Nothing reads it once the trial has ended, but Ray keeps it, and writes it in its own states.
    """
    trial.run_metadata.metric_n_steps = {}
    trial.run_metadata.metric_analysis = {}


def _last_error(trial: Trial) -> str:
    """What Ray writes of the trial's last failure."""
    file = Path(trial.error_file) if trial.error_file else None
    return (
        file.read_text(encoding="utf-8", errors="replace").rpartition("Failure #")[2]
        if file and file.exists()
        else ""
    )
