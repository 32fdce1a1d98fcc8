"""Searching a space through Ray Tune with Optuna's tree-structured Parzen estimator.

The search begins with the baseline and sees the validation set alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from segmamba.studies.results import ENDED
from segmamba.studies.spec import TrialPlan

if TYPE_CHECKING:
    import optuna

    from segmamba.studies.results import Trial
    from segmamba.studies.search_space import Distribution

METRIC = "val/best_dice_mean"
SEARCH_SEED = 0
"""The seed of every trial of a search; what it finds is tested with other seeds."""
FIRST_RANDOM = 8
"""Settings drawn at random, the baseline among them, before the estimator takes over."""


def search_arm(number: int) -> str:
    """The name of a search's trial."""
    return f"trial {number:02d}"


class SpaceSearch(Searcher):
    """Suggests the TrialPlans of a search.

    Trials that stopped early are reported to Optuna as pruned, and failed ones as failed; Ray's own
    OptunaSearch reports both as complete.

    Args:
        space: Setting to what it may be.
        baseline: Setting to the baseline's value; it is tried first.
        seed: Of the estimator.
        earlier: The trials of an earlier start of this search. Those that ended are reported to
            Optuna, the others are tried again under their names.

    Raises:
        UserError: The space does not contain the baseline.
    """

    def __init__(
        self,
        space: Mapping[str, Distribution],
        baseline: Mapping[str, object],
        *,
        seed: int = 0,
        earlier: Sequence[Trial] = (),
    ) -> None:
        super().__init__(metric=METRIC, mode="max")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._open: dict[str, optuna.Trial] = {}
        self._last: dict[str, dict[str, Any]] = {}  # the latest result with METRIC of each trial
        self._distributions = {
            name: distribution.to_optuna() for name, distribution in space.items()
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                # A search that goes on must not draw again what it has tried.
                seed=seed + len(earlier),
                n_startup_trials=FIRST_RANDOM,
                multivariate=True,
                constant_liar=True,
            )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self._named = len(earlier)
        for trial in earlier:
            self._add_earlier(trial)
        if not earlier:
            self.study.enqueue_trial(_stored(space, {name: baseline[name] for name in space}))

    def suggest(self, trial_id: str) -> dict[str, TrialPlan]:
        """The next trial, as the configuration of Ray's trial `trial_id`."""
        trial = self.study.ask(self._distributions)
        self._open[trial_id] = trial
        arm = trial.user_attrs.get("arm")  # of a trial that is tried again
        if arm is None:
            arm, self._named = search_arm(self._named), self._named + 1
        changes = {
            name: self._space[name].to_setting(value) for name, value in trial.params.items()
        }
        return {"trial": TrialPlan(arm=arm, seed=SEARCH_SEED, changes=changes)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell Optuna a trial's Dice after an epoch."""
        if METRIC in result and result["epoch"] > self._last.get(trial_id, {}).get("epoch", 0):
            self._last[trial_id] = result
            self._open[trial_id].report(result[METRIC], int(result["epoch"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended."""
        from optuna.trial import TrialState

        trial, result = self._open.pop(trial_id), result or {}
        last = self._last.pop(trial_id, {})
        if error or "failed" in result or METRIC not in last:
            self.study.tell(trial, state=TrialState.FAIL)
        elif last["epoch"] < last["epochs"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, last[METRIC])

    def _add_earlier(self, trial: Trial) -> None:
        """Tell Optuna a trial of an earlier start, or queue it where it did not end."""
        import optuna

        params, value = _stored(self._space, _changes(trial)), trial.metrics.get(METRIC)
        if trial.status not in ENDED:
            self.study.enqueue_trial(params, user_attrs={"arm": trial.arm})
            return
        how: dict[str, Any]
        if value is None or trial.status in ("FAILED", "INFEASIBLE"):
            how = {"state": optuna.trial.TrialState.FAIL}
        elif trial.status == "STOPPED":
            seen = {int(step): value for step, value in trial.history.get(METRIC, ())}
            how = {"state": optuna.trial.TrialState.PRUNED, "intermediate_values": seen}
        else:
            how = {"value": value}
        self.study.add_trial(
            optuna.create_trial(params=params, distributions=self._distributions, **how)
        )

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: MLflow holds every trial, and a resumed study tells them again."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see `save`."""


def best_trial(trials: Sequence[Trial], baseline: Mapping[str, object]) -> Trial | None:
    """The finished trial that is best on the validation set and differs from the baseline.

    Args:
        trials: The trials of a search.
        baseline: Setting to the baseline's value.

    Returns:
        The trial; None where no such trial finished.
    """
    candidates = [
        trial
        for trial in trials
        if trial.status == "FINISHED"
        and METRIC in trial.metrics
        and any(value != baseline[name] for name, value in _changes(trial).items())
    ]
    return max(candidates, key=lambda trial: trial.metrics[METRIC], default=None)


def importance(space: Mapping[str, Distribution], trials: Sequence[Trial]) -> dict[str, float]:
    """How much each setting matters for the Dice on the validation set.

    PED-ANOVA (Watanabe et al. 2023) of the finished trials.

    Args:
        space: Setting to what it may be.
        trials: The trials of a search.

    Returns:
        Setting to its share, 0 to 1; empty with fewer than 4 finished trials, or where all have
        the same Dice.
    """
    import optuna

    finished = [trial for trial in trials if trial.status == "FINISHED" and METRIC in trial.metrics]
    if len(finished) < 4 or len({trial.metrics[METRIC] for trial in finished}) < 2:
        return {}
    distributions = {name: distribution.to_optuna() for name, distribution in space.items()}
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        study.add_trial(
            optuna.create_trial(
                value=trial.metrics[METRIC],
                params=_stored(space, _changes(trial)),
                distributions=distributions,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        shares = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return dict(shares)


def _stored(space: Mapping[str, Distribution], params: Mapping[str, object]) -> dict[str, Any]:
    """Settings as Optuna stores them."""
    return {name: space[name].from_setting(value) for name, value in params.items()}


def _changes(trial: Trial) -> Mapping[str, object]:
    """The settings that a trial of a search tried."""
    if trial.changes is None:
        raise ValueError(f"{trial.arm} is no trial of a search")
    return trial.changes
