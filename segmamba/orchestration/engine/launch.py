"""Ray Tune: running trials, and searching."""

import signal
import tempfile
import time
import warnings
from contextlib import nullcontext

from segmamba.orchestration.engine.failures import MOST_RESTARTS, forget

COPIES = "population"  # folder of the checkpoints that members of a population copy, in the study's
COPIES_KEPT = 3  # of each member: Ray warns of fewer


def run_trials(plans, context, resources, progress, *, scheduler, base):
    """Run the TrialPlans until all ended, or until SIGINT stopped them; MLflow has what became of each."""
    from ray import tune

    from segmamba.orchestration.engine.context import trial_folder
    from segmamba.orchestration.engine.resource_plan import goes_on

    for plan in plans:
        forget(trial_folder(context.folder, plan))
    reuse = goes_on(resources, scheduler)
    run_plans(
        context,
        resources,
        progress,
        {"trial": tune.grid_search(plans)},
        scheduler=_scheduler(scheduler, base),
        reuse_actors=reuse,
    )


def run_search(space, baseline, trials, earlier, context, resources, progress, *, scheduler, base):
    """Try `trials` settings of the space, the baseline first; `earlier` are the Trials of an earlier start. MLflow has what became of each."""
    from segmamba.orchestration.engine.search import SpaceSearch

    search = SpaceSearch(space, baseline, earlier=earlier)
    run_plans(
        context,
        resources,
        progress,
        {},
        scheduler=_scheduler(scheduler, base),
        search_alg=search,
        num_samples=trials,
    )


def run_population(space, rounds, context, resources, progress, *, ended, base):
    """Train the members of a population that have not `ended`, names of arms. `rounds`: its Rounds, begun; they have what was decided.

    What is copied lies in the study's folder, so that a round's copies can still be made after the driver was killed.
    """
    from ray import tune

    from segmamba.orchestration.engine.context import trial_folder
    from segmamba.orchestration.engine.population import Population

    plans = [rounds.plan(arm) for arm in rounds.members if arm not in ended]
    for plan in plans:
        forget(trial_folder(context.folder, plan))
    scheduler = Population(space, rounds, base.train.epochs)
    warnings.filterwarnings(
        "ignore", "Consider boosting PBT performance"
    )  # a process of a trial's own is how it survives another's death
    run_plans(
        context,
        resources,
        progress,
        {"trial": tune.grid_search(plans)},
        scheduler=scheduler,
        storage=context.folder / COPIES,
    )


def run_plans(context, resources, progress, param_space, *, storage=None, **tuning):
    """On the Ray that this process has joined.

    What Tune itself keeps is thrown away unless it has a `storage`: a study goes on from its trials' own folders and from MLflow.
    """
    kept = nullcontext(storage) if storage else tempfile.TemporaryDirectory(prefix="segmamba_tune_")
    with kept as scratch:
        from ray import tune

        from segmamba.orchestration.engine.callbacks import FinishRuns
        from segmamba.orchestration.engine.trainable import run_trial

        watcher = FinishRuns(context, progress)
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, context=context),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        )
        tuner = tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=resources.at_once,
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
                **tuning,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                storage_path=str(scratch),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=COPIES_KEPT),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MOST_RESTARTS),
                callbacks=[watcher],
            ),
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            tuner.fit()
        finally:
            signal.signal(
                signal.SIGINT, before
            )  # Tune leaves a handler that swallows the next Ctrl-C
            watcher.settle()


def _scheduler(name, base):
    """Ray's scheduler, or None: every trial trains to its end."""
    if name == "none":
        return None
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(metric="val/best_dice_mean", mode="max", **asha_times(base))


def asha_times(base):
    """Ray's arguments: the first decision comes after the warm-up and with an evaluation of the validation set, further ones at four times the epochs."""
    every = base.train.validate_every_epochs
    grace = min(every * (base.optim.warmup_epochs // every + 1), base.train.epochs)
    # max_t: Ray stops what reaches it, and the last epoch is followed by the test.
    return {
        "time_attr": "epoch",
        "grace_period": grace,
        "reduction_factor": 4,
        "max_t": base.train.epochs + 1,
    }
