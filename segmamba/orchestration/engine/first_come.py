"""Trials run in the order given, whatever their number and whatever dies on the way."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

START_S = 120.0
"""How long a trial's own process may take to start before the trial takes any that is free."""


class FirstCome(FIFOScheduler):
    """Chooses as Ray's FIFOScheduler, without two of its faults.

    Ray's looks through all trials of a study, those that have ended too, in every step of its loop:
    with thousands of them it is what the loop does most.

    It also chooses a trial again while the trial's process starts. Ray then gives it a process that
    another trial has just left, and stops the one that was starting. Where trials are shorter than
    such a start, none ever ends: each process that died took its place with it. Here the trial that
    comes next gets the free process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._live: list[Trial] = []
        """In Ray's order: a trial whose process died is added again, behind the others."""
        self._chosen_s: dict[str, float] = {}
        """Id of a trial to when it was first chosen: its process starts from then on."""

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Note a trial that is new, or that is to start again."""
        self._live = [other for other in self._live if other is not trial] + [trial]
        self._chosen_s.pop(trial.trial_id, None)

    def choose_trial_to_run(self, tune_controller: TuneController) -> Trial | None:
        """The first waiting trial for which no process starts yet, else the first waiting one.

        Where none waits, the first of the paused ones.
        """
        self._live = [trial for trial in self._live if not trial.is_finished()]
        waiting = [trial for trial in self._live if trial.status == Trial.PENDING]
        if not waiting:
            return next((trial for trial in self._live if trial.status == Trial.PAUSED), None)
        now = time.monotonic()
        chosen = next((trial for trial in waiting if not self._starts(trial, now)), waiting[0])
        self._chosen_s.setdefault(chosen.trial_id, now)
        return chosen

    def _starts(self, trial: Trial, now: float) -> bool:
        return now - self._chosen_s.get(trial.trial_id, -math.inf) < START_S
