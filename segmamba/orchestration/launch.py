"""Ray: how many trials run at once, and running them."""

import os
import signal
import time
from dataclasses import dataclass

from segmamba.errors import UserError

OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange paths and numbers only; Ray's default would take 30 % of the memory


@dataclass(frozen=True)
class Resources:
    """How many trials run at once, and with what."""

    gpus: float
    cpus: int
    at_once: int
    total_cpus: int


def plan_resources(options, base):
    """Trials at once: as many as the GPUs, or without one the CPU cores, allow."""
    import torch

    cores = options.cpus or os.cpu_count()
    devices = torch.cuda.device_count()
    if options.gpus_per_trial and not devices:
        raise UserError(f"--gpus-per-trial {options.gpus_per_trial:g}: torch {torch.__version__} sees no GPU; leave the option out to run on the CPU")
    if not devices:
        return Resources(gpus=0, cpus=1, at_once=cores, total_cpus=cores)
    gpus = options.gpus_per_trial or 1.0
    if gpus > devices or (gpus > 1 and gpus != int(gpus)):
        raise UserError(f"--gpus-per-trial {gpus:g}: this machine has {devices}, and more than one GPU must be a whole number")
    cpus = base.data.workers + 1
    at_once = max(1, min(int(devices / gpus), cores // cpus))
    return Resources(gpus=gpus, cpus=min(cpus, cores), at_once=at_once, total_cpus=cores)


def run_trials(plans, context, resources, progress, *, scheduler, base):
    """Run the TrialPlans on a Ray of our own until all ended, or until SIGINT stopped them; MLflow has what became of each."""
    from ray import tune

    _run(context, resources, progress, {"trial": tune.grid_search(plans)}, scheduler=_scheduler(scheduler, base))


def run_search(space, baseline, trials, earlier, context, resources, progress, *, scheduler, base):
    """Try `trials` settings of the space, the baseline first; `earlier` are the Trials of an earlier start. MLflow has what became of each."""
    from segmamba.orchestration.search import SpaceSearch

    search = SpaceSearch(space, baseline, earlier=earlier)
    _run(context, resources, progress, {}, scheduler=_scheduler(scheduler, base), search_alg=search, num_samples=trials)


def _run(context, resources, progress, param_space, **tuning):
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray import tune

    from segmamba.orchestration.callbacks import FinishRuns
    from segmamba.orchestration.trainable import run_trial

    ray.init(
        address="local", num_cpus=resources.total_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, _as_sigint)  # after ray.init, which installs a handler that aborts
    try:
        trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"cpu": resources.cpus, "gpu": resources.gpus})
        tuner = tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=resources.at_once, trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}", **tuning
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y-%m-%d_%H-%M-%S"),  # a resumed study has one of these for each start
                storage_path=str(context.folder / "ray"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[FinishRuns(context, progress)],
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()


def _scheduler(name, base):
    """Ray's scheduler, or None: every trial trains to its end."""
    if name == "none":
        return None
    if name == "pbt":
        raise UserError("--scheduler pbt: only a search can change settings while it trains")
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(metric="val/best_dice_mean", mode="max", **asha_times(base))


def asha_times(base):
    """Ray's arguments: the first decision comes after the warm-up and with an evaluation of minival, further ones at thrice the epochs."""
    every = base.train.validate_every_epochs
    grace = min(every * (base.optim.warmup_epochs // every + 1), base.train.epochs)
    # max_t: Ray stops what reaches it, and the last epoch is followed by the judge.
    return {"time_attr": "epoch", "grace_period": grace, "reduction_factor": 3, "max_t": base.train.epochs + 1}


def _as_sigint(number, frame):
    """A batch system's SIGTERM is Ctrl-C to a study: Tune stops the trials and returns."""
    os.kill(os.getpid(), signal.SIGINT)
