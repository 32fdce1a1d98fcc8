"""Which trial runs next in a study that adds seeds until its claim is decided.

A look follows each seed from the third on, as soon as every trial that it needs has ended. It says
which arms get a further seed. Where a GPU or a core would stand idle until then, the trials of the
next seed begin ahead of the look, those that take least first; what has begun is finished and
counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from segmamba.studies.alpha_spending import FIRST_LOOK
from segmamba.studies.looks import Look
from segmamba.studies.results import Study
from segmamba.studies.trial_plan import TrialPlan

WORTH_STARTING = 0.5
"""A slot that would stand idle for less than this share of a trial waits for the look.

Where the look goes on, what was idle is gained; where it ends the study, the rest is lost.
"""


class SeedQueue:
    """Hands out the trials of a sequential study, in the order seed, fold, arm.

    Args:
        study: As it stands, with the looks that were taken and the trials that an earlier start
            has begun.
        arms: The arms that can run.
        ended: Keys of the trials that no start runs again.
        take_look: Takes the look after so many seeds, with the looks before it; None while MLflow
            does not know yet how all of its trials ended.
        answered: The keys of those trials that need not run, because finished runs answer them.
        length: How long a trial takes, in any unit.
    """

    def __init__(
        self,
        study: Study,
        arms: Collection[str],
        ended: Collection[str],
        *,
        take_look: Callable[[int, Sequence[Look]], Look | None],
        answered: Callable[[Sequence[TrialPlan]], Collection[str]] = lambda plans: (),
        length: Callable[[TrialPlan], float] = lambda plan: 1.0,
    ) -> None:
        self.study, self._arms = study, tuple(arm for arm in study.arms if arm in arms)
        self._take_look, self._answered, self._length = take_look, answered, length
        self._ended = set(ended)
        self._begun: set[str] = set()
        self._running: dict[str, tuple[TrialPlan, float]] = {}
        """Key of each running trial to the trial and the share of it that is done."""
        self.looks: list[Look] = list(study.looks)
        known = [plan for plan in study.plans if plan.arm in self._arms]
        self._waiting = deque(self._to_run(sorted(known, key=self._order)))

    def next(self) -> TrialPlan | None:
        """Hand out the next trial.

        Returns:
            The trial, or None while the running ones must be waited for, and when all is over.
        """
        while True:
            if self._waiting:
                return self._start(self._waiting.popleft())
            if left := self._left_for_look():
                return self._ahead(max(left))
            if not self.goes_on:
                return None
            look = self._take_look(self._next_look, self.looks)
            if look is None:
                return None
            self.looks.append(look)
            if look.arms:
                self._waiting.extend(self._to_run(self._plans_of(look.seeds, look.arms)))

    @property
    def waiting(self) -> list[TrialPlan]:
        """The trials that are known to run and have not begun."""
        return list(self._waiting)

    @property
    def goes_on(self) -> bool:
        """Whether a further look is to come."""
        return not self.looks or bool(self.looks[-1].arms)

    @property
    def is_over(self) -> bool:
        """Whether no trial runs, waits or may still come."""
        return not (self._waiting or self._running or self.goes_on)

    def put_back(self, plan: TrialPlan) -> None:
        """Take back a trial that was handed out and did not begin."""
        self._running.pop(plan.key, None)
        self._begun.discard(plan.key)
        self._waiting.appendleft(plan)

    def progressed(self, key: str, share: float) -> None:
        """Note that a share (0 to 1) of a running trial is done."""
        if key in self._running:
            self._running[key] = self._running[key][0], share

    def ended(self, key: str) -> None:
        """Note that a trial has ended, well or not."""
        self._running.pop(key, None)
        self._ended.add(key)

    @property
    def _next_look(self) -> int:
        """The number of seeds after which the next look is taken."""
        return self.looks[-1].seeds + 1 if self.looks else FIRST_LOOK

    def _order(self, plan: TrialPlan) -> tuple[int, int, int]:
        return plan.seed, plan.fold or 0, self._arms.index(plan.arm)

    def _to_run(self, plans: Sequence[TrialPlan]) -> list[TrialPlan]:
        """Those that have not begun and that no finished run answers."""
        over = self._ended | self._begun
        new = [plan for plan in plans if plan.key not in over]
        answered = set(self._answered(new)) if new else set()
        self._ended |= answered
        return [plan for plan in new if plan.key not in answered]

    def _start(self, plan: TrialPlan) -> TrialPlan:
        self._begun.add(plan.key)
        self._running[plan.key] = plan, 0.0
        return plan

    def _plans_of(self, place: int, arms: Collection[str]) -> list[TrialPlan]:
        """The trials of arms with the study's seed number `place`, counted from 0."""
        seed = self.study.seed_range[place]
        return [
            TrialPlan(arm=arm, seed=seed, fold=fold)
            for fold in self.study.folds or (None,)
            for arm in self._arms
            if arm in arms
        ]

    def _left_for_look(self) -> list[float]:
        """How long the running trials that the next look needs still take."""
        needed = self.study.seed_range[: self._next_look]
        return [
            (1 - share) * self._length(plan)
            for plan, share in self._running.values()
            if plan.seed in needed
        ]

    def _ahead(self, idle: float) -> TrialPlan | None:
        """The shortest trial of the seed after the next look, if it is worth starting."""
        if not self.goes_on or self._next_look >= self.study.max_seeds:
            return None
        arms = self.looks[-1].arms if self.looks else self._arms
        plans = self._to_run(self._plans_of(self._next_look, arms))
        shortest = min(plans, key=self._length, default=None)
        if shortest is None or idle < WORTH_STARTING * self._length(shortest):
            return None
        return self._start(shortest)
