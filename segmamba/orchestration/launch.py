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


def run_trials(trials, context, resources, progress):
    """Run the TrialPlans on a Ray of our own until all ended, or until SIGINT stopped them; MLflow has what became of each."""
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
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=resources.at_once, trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}"),
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


def _as_sigint(number, frame):
    """A batch system's SIGTERM is Ctrl-C to a study: Tune stops the trials and returns."""
    os.kill(os.getpid(), signal.SIGINT)
