"""Running the trials of a study with Ray Tune: given ones, a search, or a population."""

from __future__ import annotations

import signal
import tempfile
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from segmamba.errors import UserError
from segmamba.orchestration.engine.context import StudyContext, trial_folder
from segmamba.orchestration.engine.failures import MOST_RESTARTS, clear_failures
from segmamba.orchestration.engine.resources import Resources, reuses_processes
from segmamba.orchestration.engine.scratch import scratch

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

    from segmamba.config import Config
    from segmamba.orchestration.engine.context import TrialFunction
    from segmamba.orchestration.engine.population_rounds import Rounds
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.engine.search import SpaceSearch
    from segmamba.orchestration.engine.seed_queue import SeedQueue
    from segmamba.studies.search_space import Distribution
    from segmamba.studies.spec import TrialPlan

COPIES = "population"
"""Folder, in the study's, of the checkpoints that members of a population copy."""
COPIES_KEPT = 3
"""Checkpoints kept of each member: Ray warns of fewer."""


@dataclass(frozen=True)
class TrialLauncher:
    """Runs trials on the Ray that this process has joined; MLflow records how each ended.

    Each method returns when all trials have ended or SIGINT has stopped them.
    """

    context: StudyContext
    resources: Resources
    progress: ProgressDisplay
    trial: TrialFunction | None = None
    """What Ray runs for each trial; None is `run_trial` of trainable.py."""

    def run_trials(self, plans: Sequence[TrialPlan], *, scheduler: str, base: Config) -> None:
        """Train and test the arms.

        Args:
            plans: The trials.
            scheduler: What may stop a trial early: none or asha.
            base: The configuration whose epochs the scheduler counts.
        """
        from segmamba.orchestration.engine.given_trials import GivenTrials

        self._clear_failures(plans)
        self.run(
            {},
            scheduler=_scheduler(scheduler, base),
            search_alg=GivenTrials(plans),
            num_samples=len(plans),
            reuse_actors=reuses_processes(scheduler),
        )

    def run_seeds(self, queue: SeedQueue) -> None:
        """Train and test the arms with one seed after another, until their claim is decided.

        Args:
            queue: Decides which trial runs next.

        Raises:
            Exception: Whatever a look raised.
        """
        from segmamba.orchestration.engine.first_come import FirstCome
        from segmamba.orchestration.engine.seed_search import SeedSearch

        search, study = SeedSearch(queue), queue.study
        most = len(study.arms) * study.max_seeds * max(1, len(study.folds))
        self._clear_failures(queue.waiting)
        self.run(
            {},
            scheduler=FirstCome(),
            search_alg=search,
            num_samples=most + 1,  # Ray asks no more after the last: there would be no last look
            reuse_actors=reuses_processes(None),
        )
        if search.failure is not None:
            raise search.failure

    def run_search(self, search: SpaceSearch, trials: int, *, scheduler: str, base: Config) -> None:
        """Try further settings of a search space.

        Args:
            search: Suggests the settings; it knows those of an earlier start.
            trials: How many settings to try.
            scheduler: What may stop a trial early: none or asha.
            base: The configuration whose epochs the scheduler counts.
        """
        self.run({}, scheduler=_scheduler(scheduler, base), search_alg=search, num_samples=trials)

    def run_population(
        self,
        space: Mapping[str, Distribution],
        rounds: Rounds,
        *,
        ended: Collection[str],
        base: Config,
    ) -> None:
        """Train the members of a population.

        The copied checkpoints lie in the study's folder, so that the copies of a round can still
        be made after the driver was killed.

        Args:
            space: Setting to what it may be.
            rounds: The members and what earlier rounds decided; it has begun.
            ended: Names of the members that have ended already.
            base: The configuration of the baseline.
        """
        from ray import tune

        from segmamba.orchestration.engine.population import Population

        plans = [rounds.plan(arm) for arm in rounds.members if arm not in ended]
        self._clear_failures(plans)
        # Ray proposes to share processes; separate ones let a trial survive another's death.
        warnings.filterwarnings("ignore", "Consider boosting PBT performance")
        self.run(
            {"trial": tune.grid_search(plans)},
            scheduler=Population(space, rounds, base.train.epochs),
            storage=self.context.folder / COPIES,
        )

    def _clear_failures(self, plans: Iterable[TrialPlan]) -> None:
        for plan in plans:
            clear_failures(trial_folder(self.context.folder, plan))

    def run(
        self, param_space: dict[str, Any], *, storage: Path | None = None, **tuning: Any
    ) -> None:
        """Run trials of a parameter space.

        Args:
            param_space: Ray's; the key "trial" gives each trial its TrialPlan.
            storage: Folder for what Tune itself keeps. Without one it is thrown away: a study goes
                on from its trials' own folders and from MLflow.
            **tuning: Further fields of Ray's TuneConfig.

        Raises:
            UserError: The memory of the machine ran out.
        """
        with nullcontext(storage) if storage else scratch(Path(tempfile.gettempdir())) as folder:
            from ray import tune

            from segmamba.orchestration.engine.callbacks import FinishRuns
            from segmamba.orchestration.engine.trainable import run_trial

            callback = FinishRuns(self.context, self.progress)
            trainable = tune.with_resources(
                tune.with_parameters(self.trial or run_trial, context=self.context),
                {"cpu": self.resources.cpus, "gpu": self.resources.gpus},
            )
            tuner = tune.Tuner(
                trainable,
                param_space=param_space,
                tune_config=tune.TuneConfig(
                    max_concurrent_trials=self.resources.at_once,
                    trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
                    **tuning,
                ),
                run_config=tune.RunConfig(
                    name=time.strftime("%Y-%m-%d_%H-%M-%S"),
                    storage_path=str(folder),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=COPIES_KEPT),
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=MOST_RESTARTS),
                    callbacks=[callback],
                ),
            )
            before = signal.getsignal(signal.SIGINT)
            try:
                tuner.fit()
            except RuntimeError as error:
                from ray.exceptions import OutOfMemoryError

                # Tune takes an actor that the memory monitor ended for no dead actor, and gives up.
                if not isinstance(error.__cause__, OutOfMemoryError):
                    raise
                raise UserError(
                    "the machine's memory ran out, and Ray ended trials; finished trials are kept. "
                    "Free memory or allow fewer --cpus, and go on with --resume"
                ) from error
            finally:
                # Tune leaves a handler that swallows the next Ctrl-C.
                signal.signal(signal.SIGINT, before)
                callback.settle()


def _scheduler(name: str, base: Config) -> TrialScheduler:
    """Ray's scheduler; under "none" every trial trains to its end."""
    from ray.tune.schedulers import AsyncHyperBandScheduler

    from segmamba.orchestration.engine.first_come import FirstCome

    if name == "none":
        return FirstCome()

    return AsyncHyperBandScheduler(metric="val/best_dice_mean", mode="max", **asha_times(base))


class AshaTimes(TypedDict):
    """When Ray's AsyncHyperBandScheduler decides; its arguments."""

    time_attr: str
    grace_period: int
    reduction_factor: int
    max_t: int


def asha_times(base: Config) -> AshaTimes:
    """When ASHA decides which trials go on.

    The first decision comes after the warm-up of the learning rate and with an evaluation of the
    validation set, further ones at four times the epochs.

    Args:
        base: The configuration whose epochs are counted.

    Returns:
        Arguments of Ray's AsyncHyperBandScheduler. Ray stops a trial that reaches `max_t`; it lies
        behind the last epoch, since the test follows that epoch.
    """
    every = base.train.validate_every_epochs
    grace = min(every * (base.optim.warmup_epochs // every + 1), base.train.epochs)
    return {
        "time_attr": "epoch",
        "grace_period": grace,
        "reduction_factor": 4,
        "max_t": base.train.epochs + 1,
    }
