"""The trials of a study with fixed seeds, handed to Ray Tune one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher

from segmamba.studies.spec import TrialPlan


class GivenTrials(Searcher):
    """Suggests given trials in their order.

    Ray's grid search does the same, but copies all of the trials for each of them: of 5,000, that
    takes longer than running them.

    Args:
        plans: The trials.
    """

    def __init__(self, plans: Sequence[TrialPlan]) -> None:
        super().__init__(metric="val/best_dice_mean", mode="max")
        self._waiting = iter(plans)

    def __getstate__(self) -> dict[str, Any]:
        """Return what Ray stores of it: nothing, since MLflow holds every trial."""
        return {}

    def suggest(  # type: ignore[override]  # Ray takes FINISHED, which its type leaves out
        self, trial_id: str
    ) -> dict[str, TrialPlan] | str:
        """The next trial, as the configuration of Ray's trial `trial_id`."""
        plan = next(self._waiting, None)
        return Searcher.FINISHED if plan is None else {"trial": plan}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take no notice: what comes next does not depend on it."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing; see `__getstate__`."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `__getstate__`."""
