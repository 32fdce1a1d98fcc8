"""Searching a space through Ray Tune: Optuna's tree-structured Parzen estimator, which begins with the baseline and sees validation alone."""

import warnings

from ray.tune.search import Searcher

from segmamba.studies.spec import TrialPlan

METRIC = "val/best_dice_mean"
SEARCH_SEED = 0  # of every trial of a search; what it finds is tested with other seeds
ENDED = ("FINISHED", "STOPPED", "FAILED", "INFEASIBLE")
FIRST_RANDOM = (
    8  # settings drawn at random, the baseline among them, before the estimator takes over
)


def search_arm(number):
    """The name of a search's trial."""
    return f"trial {number:02d}"


class SpaceSearch(Searcher):
    """Suggests TrialPlans. What stopped early is told to Optuna as pruned, what failed as failed; Ray's own OptunaSearch calls both complete.

    space: setting to Between or OneOf; baseline: {setting: value}, the first to be tried. earlier: the Trials of an earlier start of
    this search: what ended is told, what did not is tried again under its name.
    """

    def __init__(self, space, baseline, *, seed=0, earlier=()):
        super().__init__(metric=METRIC, mode="max")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._open, self._last = space, {}, {}
        self._distributions = {
            name: distribution.to_optuna() for name, distribution in space.items()
        }
        with (
            warnings.catch_warnings()
        ):  # a search that goes on must not draw again what it has tried: another seed
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                seed=seed + len(earlier),
                n_startup_trials=FIRST_RANDOM,
                multivariate=True,
                constant_liar=True,
            )
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self._named = len(earlier)
        for trial in earlier:
            self._tell_earlier(trial)
        if not earlier:
            self.study.enqueue_trial(_stored(space, {name: baseline[name] for name in space}))

    def suggest(self, trial_id):
        trial = self.study.ask(self._distributions)
        self._open[trial_id] = trial
        arm = trial.user_attrs.get("arm")  # of a trial that is tried again
        if arm is None:
            arm, self._named = search_arm(self._named), self._named + 1
        changes = {
            name: self._space[name].to_setting(value) for name, value in trial.params.items()
        }
        return {"trial": TrialPlan(arm=arm, seed=SEARCH_SEED, changes=changes)}

    def on_trial_result(self, trial_id, result):
        if METRIC in result and result["epoch"] > self._last.get(trial_id, {}).get("epoch", 0):
            self._last[trial_id] = result
            self._open[trial_id].report(result[METRIC], int(result["epoch"]))

    def on_trial_complete(self, trial_id, result=None, error=False):
        from optuna.trial import TrialState

        trial, result = self._open.pop(trial_id), result or {}
        last = self._last.pop(trial_id, {})
        if error or "failed" in result or METRIC not in last:
            self.study.tell(trial, state=TrialState.FAIL)
        elif last["epoch"] < last["epochs"]:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, last[METRIC])

    def _tell_earlier(self, trial):
        import optuna

        params, value = _stored(self._space, trial.changes), trial.metrics.get(METRIC)
        if trial.status not in ENDED:
            self.study.enqueue_trial(params, user_attrs={"arm": trial.arm})
            return
        told = {"params": params, "distributions": self._distributions}
        if value is None or trial.status in ("FAILED", "INFEASIBLE"):
            self.study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL, **told))
        elif trial.status == "STOPPED":
            seen = {int(step): value for step, value in trial.history.get(METRIC, ())}
            self.study.add_trial(
                optuna.create_trial(
                    state=optuna.trial.TrialState.PRUNED, intermediate_values=seen, **told
                )
            )
        else:
            self.study.add_trial(optuna.create_trial(value=value, **told))

    def save(self, checkpoint_path):
        """Nothing: MLflow holds every trial, and a resumed study tells them again."""

    def restore(self, checkpoint_path):
        """Nothing, as in `save`."""


def best_trial(trials, baseline):
    """The Trial that the validation set likes best of those that ended and differ from `baseline` ({setting: value}); None where there is none."""
    tried = [
        t
        for t in trials
        if t.status == "FINISHED"
        and METRIC in t.metrics
        and any(t.changes[n] != baseline[n] for n in t.changes)
    ]
    return max(tried, key=lambda trial: trial.metrics[METRIC], default=None)


def importance(space, trials):
    """{setting: share, 0 to 1} of what the finished Trials' Dice on the validation set varies with (PED-ANOVA, Watanabe et al. 2023); {} of fewer than 4."""
    import optuna

    finished = [trial for trial in trials if trial.status == "FINISHED" and METRIC in trial.metrics]
    if len(finished) < 4 or len({trial.metrics[METRIC] for trial in finished}) < 2:
        return {}
    distributions = {name: d.to_optuna() for name, d in space.items()}
    study = optuna.create_study(direction="maximize")
    for trial in finished:
        told = {"params": _stored(space, trial.changes), "distributions": distributions}
        study.add_trial(optuna.create_trial(value=trial.metrics[METRIC], **told))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    return dict(found)


def _stored(space, params):
    return {name: space[name].from_setting(value) for name, value in params.items()}
