"""Ray Tune: running trials, and searching."""

import tempfile
import time
from contextlib import nullcontext

from segmamba.orchestration.engine.cluster import has_joined, ray_here
from segmamba.orchestration.engine.deaths import MOST_RESTARTS, forget


def run_trials(plans, context, resources, progress, *, scheduler, base):
    """Run the TrialPlans until all ended, or until SIGINT stopped them; MLflow has what became of each."""
    from ray import tune

    from segmamba.orchestration.engine.trainable import trial_folder

    for plan in plans:
        forget(trial_folder(context.folder, plan))
    run_plans(context, resources, progress, {"trial": tune.grid_search(plans)}, scheduler=_scheduler(scheduler, base))


def run_search(space, baseline, trials, earlier, context, resources, progress, *, scheduler, base):
    """Try `trials` settings of the space, the baseline first; `earlier` are the Trials of an earlier start. MLflow has what became of each."""
    from segmamba.orchestration.engine.search import SpaceSearch

    search = SpaceSearch(space, baseline, earlier=earlier)
    run_plans(context, resources, progress, {}, scheduler=_scheduler(scheduler, base), search_alg=search, num_samples=trials)


def run_plans(context, resources, progress, param_space, **tuning):
    """On the cluster that this process has joined, or on a Ray of our own.

    What Tune itself keeps is thrown away: a study goes on from its trials' own folders and from MLflow.
    """
    with nullcontext() if has_joined() else ray_here(resources.cores), tempfile.TemporaryDirectory(prefix="segmamba_tune_") as scratch:
        from ray import tune

        from segmamba.orchestration.engine.callbacks import FinishRuns
        from segmamba.orchestration.engine.trainable import run_trial

        watcher = FinishRuns(context, progress)
        trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"cpu": resources.cpus, "gpu": resources.gpus})
        tuner = tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=resources.at_once, trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}", **tuning
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MOST_RESTARTS),
                callbacks=[watcher],
            ),
        )
        try:
            tuner.fit()
        finally:
            watcher.settle()


def _scheduler(name, base):
    """Ray's scheduler, or None: every trial trains to its end."""
    if name == "none":
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(metric="val/best_dice_mean", mode="max", **asha_times(base))


def asha_times(base):
    """Ray's arguments: the first decision comes after the warm-up and with an evaluation of minival, further ones at four times the epochs."""
    every = base.train.validate_every_epochs
    grace = min(every * (base.optim.warmup_epochs // every + 1), base.train.epochs)
    # max_t: Ray stops what reaches it, and the last epoch is followed by the judge.
    return {"time_attr": "epoch", "grace_period": grace, "reduction_factor": 4, "max_t": base.train.epochs + 1}
