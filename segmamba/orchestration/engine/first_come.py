"""Trials run in the order given, whatever their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController


class FirstCome(FIFOScheduler):
    """Chooses the same trial as Ray's FIFOScheduler, without those that have ended.

    Ray's looks through all trials of a study, twice, in every step of its loop: with thousands of
    them it is what the loop does most.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: list[Trial] = []
        """In Ray's order: a trial whose process died is added again, behind the others."""

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Note a trial that is new, or that is to start again."""
        self._live = [other for other in self._live if other is not trial] + [trial]

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The first of the trials that wait; of the paused ones where none waits."""
        self._live = [trial for trial in self._live if not trial.is_finished()]
        for status in (Trial.PENDING, Trial.PAUSED):
            for trial in self._live:
                if trial.status == status:
                    return trial
        return None
