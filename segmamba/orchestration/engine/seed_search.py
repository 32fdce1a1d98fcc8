"""The trials of a sequential study through Ray Tune, which asks for one whenever a slot is free."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from segmamba.orchestration.engine.seed_queue import SeedQueue
from segmamba.studies.spec import TrialPlan


class SeedSearch(Searcher):
    """Suggests the trials of a SeedQueue.

    Args:
        queue: Decides which trial runs next.
    """

    def __init__(self, queue: SeedQueue) -> None:
        super().__init__(metric="val/best_dice_mean", mode="max")
        self._queue = queue
        self._keys: dict[str, str] = {}
        self.failure: Exception | None = None
        """What a look raised. Ray would take an exception here for its own."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray stores of it: nothing, since MLflow holds the looks and every trial."""
        return {}

    def suggest(  # type: ignore[override]  # Ray takes FINISHED, which its type leaves out
        self, trial_id: str
    ) -> dict[str, TrialPlan] | str | None:
        """The next trial, as the configuration of Ray's trial `trial_id`; None: wait."""
        if self.failure is not None:
            return Searcher.FINISHED
        try:
            plan = self._queue.next()
        except Exception as error:
            self.failure = error
            return Searcher.FINISHED
        if plan is None:
            return Searcher.FINISHED if self._queue.is_over else None
        self._keys[trial_id] = plan.key
        return {"trial": plan}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note how far a trial is."""
        if result.get("epochs"):
            self._queue.progressed(self._keys[trial_id], result["epoch"] / result["epochs"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note that a trial has ended."""
        self._queue.ended(self._keys[trial_id])

    def save(self, checkpoint_path: str) -> None:
        """Save nothing; see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `__getstate__`."""
