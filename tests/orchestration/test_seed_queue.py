"""Seeds are added look by look, slots do not idle, and what had begun is finished and counted."""

import dataclasses

from segmamba.orchestration.engine.seed_queue import SeedQueue
from segmamba.studies.looks import Look
from tests.studies.synthetic import synthetic_study

ARMS = ("base", "good", "bad")


def sequential(max_seeds=6, looks=(), **changes):
    study = synthetic_study(dict.fromkeys(ARMS, 0.0), seeds=3)
    seeds = dict.fromkeys(ARMS, (0, 1, 2))
    return dataclasses.replace(
        study, max_seeds=max_seeds, looks=looks, arm_seeds=seeds, trials=(), **changes
    )


class Run:
    """A machine with some slots, on which trials end in the order in which they began."""

    def __init__(self, decisions, study=None, **queue):
        self.decisions, self.looked_at, self.began = decisions, [], []
        self.ended = []
        self.queue = SeedQueue(
            study or sequential(), ARMS, queue.pop("ended", ()), take_look=self.look, **queue
        )

    def look(self, seeds, earlier):
        self.looked_at.append((seeds, sorted(self.ended)))
        assert [look.seeds for look in earlier] == list(range(3, seeds))
        return Look(seeds=seeds, contrasts=(), arms=self.decisions.get(seeds, ()), reason="")

    def fill(self, slots):
        while len(self.began) - len(self.ended) < slots and (plan := self.queue.next()):
            self.began.append((plan.arm, plan.seed))
            self.keys = {**getattr(self, "keys", {}), self.began[-1]: plan.key}

    def end(self):
        trial = self.began[len(self.ended)]
        self.ended.append(trial)
        self.queue.ended(self.keys[trial])

    def to_the_end(self, slots):
        self.fill(slots)
        while not self.queue.is_over:
            self.end()
            self.fill(slots)
        return self


def test_seeds_are_added_for_the_arms_that_a_look_keeps_until_none_is_left():
    run = Run({3: ARMS, 4: ("base", "good")}).to_the_end(slots=1)
    first = [(arm, seed) for seed in range(3) for arm in ARMS]
    assert run.began == [*first, *((arm, 3) for arm in ARMS), ("base", 4), ("good", 4)]
    assert [seeds for seeds, _ in run.looked_at] == [3, 4, 5]


def test_a_look_is_taken_only_when_all_that_it_counts_has_ended():
    run = Run({3: ARMS}).to_the_end(slots=2)
    for seeds, ended in run.looked_at:
        assert {(arm, seed) for seed in range(seeds) for arm in ARMS} <= set(ended)


def test_an_idle_slot_begins_the_next_seed_ahead_of_the_look_and_that_trial_is_finished():
    run = Run({}).to_the_end(slots=2)
    assert run.began[9:] == [("base", 3)]  # while the ninth trial ran alone
    assert set(run.ended) == set(run.began)
    assert [seeds for seeds, _ in run.looked_at] == [3]


def test_a_slot_that_would_idle_only_briefly_waits_for_the_look():
    run = Run({})
    run.fill(slots=2)
    while len(run.ended) < 7:
        run.end()
        run.fill(slots=2)
    for key in list(run.keys.values()):
        run.queue.progressed(key, 0.9)
    run.end()
    run.fill(slots=2)
    assert len(run.began) == 9


def test_the_shortest_trial_is_begun_ahead_and_a_long_one_only_where_much_of_it_fits():
    steps = {"base": 4, "good": 4, "bad": 1}
    run = Run({}, length=lambda plan: steps[plan.arm])
    run.fill(slots=2)
    while len(run.ended) < 8:
        run.end()
        run.fill(slots=2)
    assert run.began[8:] == [("bad", 2), ("bad", 3)]  # as long as the one that the look waits for
    run = Run({}, length=lambda plan: {"base": 4, "good": 4, "bad": 9}[plan.arm])
    run.fill(slots=2)
    while len(run.ended) < 7:
        run.end()
        run.fill(slots=2)
    for key in list(run.keys.values()):
        run.queue.progressed(key, 0.8)  # the ninth trial still takes 1.8, less than half of 4
    run.end()
    run.fill(slots=2)
    assert len(run.began) == 9


def test_no_trial_is_begun_ahead_of_the_last_look():
    run = Run(dict.fromkeys(range(3, 6), ARMS)).to_the_end(slots=4)
    assert max(seed for _, seed in run.began) == 5
    assert len(run.began) == 18 == len(set(run.began))


def test_a_resumed_study_goes_on_after_its_last_look_with_what_had_begun():
    looks = (Look(seeds=3, contrasts=(), arms=("base", "good"), reason=""),)
    study = sequential(looks=looks)
    seeds = {"base": (0, 1, 2, 3), "good": (0, 1, 2, 3), "bad": (0, 1, 2)}
    study = dataclasses.replace(study, seeds=(0, 1, 2, 3), arm_seeds=seeds)
    ended = {plan.key for plan in study.plans if plan.seed < 3}
    run = Run({}, study, ended=ended).to_the_end(slots=1)
    assert run.began == [("base", 3), ("good", 3)]
    assert [seeds for seeds, _ in run.looked_at] == [4]


def test_trials_that_finished_runs_answer_are_never_handed_out():
    asked = []

    def answered(plans):
        asked.append(len(plans))
        return {plan.key for plan in plans if plan.seed < 4}

    run = Run({3: ARMS}, answered=answered)
    run.fill(slots=2)
    assert run.began == [] and run.queue.is_over
    assert asked == [9, 3], "the trials of all arms and seeds up to a look at once"
    assert [seeds for seeds, _ in run.looked_at] == [3, 4]


def test_a_look_that_mlflow_cannot_answer_yet_is_waited_for():
    answers = [None, None, Look(seeds=3, contrasts=(), arms=(), reason="")]
    queue = SeedQueue(
        sequential(),
        ARMS,
        {plan.key for plan in sequential().plans},
        take_look=lambda seeds, earlier: answers.pop(0),
    )
    assert queue.next() is None and not queue.is_over
    assert queue.next() is None and not queue.is_over
    assert queue.next() is None and queue.is_over


def test_a_search_numbers_its_seeds_from_one():
    study = dataclasses.replace(
        sequential(), seeds=(1, 2, 3), arm_seeds=dict.fromkeys(ARMS, (1, 2, 3))
    )
    run = Run({3: ("base",)}, study).to_the_end(slots=1)
    assert run.began[-1] == ("base", 4)
    assert {seed for _, seed in run.began} == {1, 2, 3, 4}


def test_every_fold_of_a_seed_belongs_to_its_look():
    study = dataclasses.replace(sequential(), folds=(0, 1))
    run = Run({3: ("base",)}, study)
    run.fill(slots=30)
    assert len(run.began) == 3 * 2 * 3 + 2 * 3  # three seeds, and the fourth ahead
