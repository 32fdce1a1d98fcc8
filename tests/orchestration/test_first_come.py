"""Trials run in Ray's order, whatever becomes of them."""

import random
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from segmamba.orchestration.engine.first_come import FirstCome


class Controller:
    """As much of Ray's loop as a scheduler sees, with all trials."""

    def __init__(self, scheduler):
        self.scheduler, self.trials = scheduler, []

    def get_trials(self):
        return self.trials

    def add(self, status):
        trial = SimpleNamespace(trial_id=f"{random.random()}", status=status)
        trial.is_finished = lambda: trial.status in (Trial.TERMINATED, Trial.ERROR)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)

    def start_again(self, trial):
        """As Ray does with a trial whose process died: it waits behind the others."""
        self.trials.remove(trial)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)


@pytest.mark.parametrize("seed", range(5))
def test_the_next_trial_is_the_one_that_ray_would_take(seed):
    draw = random.Random(seed)
    controller, rays = Controller(FirstCome()), FIFOScheduler()
    states = (Trial.PENDING, Trial.PAUSED, Trial.RUNNING, Trial.TERMINATED, Trial.ERROR)
    for _ in range(400):
        live = [trial for trial in controller.trials if not trial.is_finished()]
        running = [trial for trial in live if trial.status == Trial.RUNNING]
        what = draw.random()
        if what < 0.3:
            controller.add(draw.choice(states[:2]))
        elif what < 0.4 and running:
            again = draw.choice(running)
            again.status = Trial.PENDING
            controller.start_again(again)
        elif live:
            draw.choice(live).status = draw.choice(states)
        chosen = controller.scheduler.choose_trial_to_run(controller)
        assert chosen is rays.choose_trial_to_run(controller)
    assert len(controller.scheduler._live) < len(controller.trials) / 2, "the ended are let go"
