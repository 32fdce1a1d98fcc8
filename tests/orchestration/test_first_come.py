"""Trials run in Ray's order, whatever becomes of them."""

import itertools
import random
from types import SimpleNamespace

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from segmamba.orchestration.engine import first_come
from segmamba.orchestration.engine.first_come import START_S, FirstCome


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
        return trial

    def start_again(self, trial):
        """As Ray does with a trial whose process died: it waits behind the others."""
        self.trials.remove(trial)
        self.trials.append(trial)
        self.scheduler.on_trial_add(self, trial)


@pytest.mark.parametrize("seed", range(5))
def test_where_no_process_starts_the_next_trial_is_the_one_that_ray_would_take(seed, monkeypatch):
    monkeypatch.setattr(first_come, "START_S", 0.0)
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


def test_a_free_process_goes_to_the_next_trial_while_that_of_an_earlier_one_starts(monkeypatch):
    clock = itertools.repeat(1000.0)
    monkeypatch.setattr(first_come.time, "monotonic", lambda: next(clock))
    controller = Controller(FirstCome())
    choose = controller.scheduler.choose_trial_to_run
    first, second = controller.add(Trial.PENDING), controller.add(Trial.PENDING)
    assert choose(controller) is first, "its process starts"
    assert choose(controller) is second, "it gets a process that is free, or its own"
    assert choose(controller) is first, "no other trial waits: it takes what becomes free"
    third = controller.add(Trial.PENDING)
    clock = itertools.repeat(1000.0 + START_S)
    assert choose(controller) is first, "its process does not come"
    first.status = second.status = Trial.RUNNING
    assert choose(controller) is third
    second.status = Trial.PENDING
    controller.start_again(second)
    assert choose(controller) is second, "its process died, and another one is to start"
