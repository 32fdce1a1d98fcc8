"""Population-based training (Jaderberg et al. 2017) on Ray's scheduler.

At every round the worst members copy the best ones and change settings. All members wait for a
round, so a copy comes from its own epoch: a member has trained itself what its MLflow run shows up
to there, what follows grew from the copied weights, and no step is missing or repeated. Members
start alike but for their settings, and every choice is drawn from the round's number. So a round
that was lost with its driver gives the same result again.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ray.tune.schedulers import PopulationBasedTraining

from segmamba.orchestration.engine.population_rounds import Rounds, explore
from segmamba.studies.spec import Stage

if TYPE_CHECKING:
    from ray.tune import Checkpoint
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial as RayTrial

    from segmamba.studies.search_space import Distribution

SCORE = "val/dice_mean"
"""The score of a member: of the round's own epoch, since the best so far speaks for an earlier
one."""
QUANTILE = 0.25
"""The share of the population that copies; it copies the same share at the top."""


class Population(PopulationBasedTraining):
    """Ray's scheduler with rounds that all members wait for.

    A trial keeps its name when it copies another, and each round is written down before it counts.

    Args:
        space: Setting to what it may be.
        rounds: The rounds so far; they have begun.
        epochs: Epochs of a whole training; no round follows the last.
    """

    def __init__(self, space: Mapping[str, Distribution], rounds: Rounds, epochs: int) -> None:
        super().__init__(
            time_attr="epoch",
            metric=SCORE,
            mode="max",
            perturbation_interval=rounds.every,
            quantile_fraction=QUANTILE,
            custom_explore_fn=dict,  # Ray asks for one; `_get_new_config` does it all
            log_config=False,
            require_attrs=False,
            synch=True,
        )
        self._space, self._rounds, self._epochs = space, rounds, epochs
        self._copies: dict[str, Stage] = {}  # of the round that is being decided
        self._next_perturbation_sync = rounds.done + rounds.every

    def on_trial_add(self, tune_controller: TuneController, trial: RayTrial) -> None:
        """Take in a member, as one that has come to the last round."""
        super().on_trial_add(tune_controller, trial)
        self._trial_state[trial].last_perturbation_time = self._rounds.done

    def on_trial_result(
        self, tune_controller: TuneController, trial: RayTrial, result: dict[str, Any]
    ) -> str:
        """Let a member go on after an epoch, or make it wait for a round."""
        if (
            "failed" in result
            or result["epoch"] % self._rounds.every
            or result["epoch"] >= self._epochs
        ):
            return self.CONTINUE
        pending, before, self._copies = self._next_perturbation_sync, random.getstate(), {}
        random.seed(pending)  # decides whom Ray's own random.choice takes as a donor
        try:
            decision = super().on_trial_result(tune_controller, trial, result)
        finally:
            random.setstate(before)
        if self._next_perturbation_sync != pending:
            self._rounds.settle(int(pending), self._copies)
        return decision

    def on_trial_complete(
        self, tune_controller: TuneController, trial: RayTrial, result: dict[str, Any]
    ) -> None:
        """A member has ended."""
        self._leave(tune_controller, trial)

    def on_trial_error(self, tune_controller: TuneController, trial: RayTrial) -> None:
        """A member has failed."""
        self._leave(tune_controller, trial)

    def on_trial_remove(self, tune_controller: TuneController, trial: RayTrial) -> None:
        """A member is taken out."""
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: TuneController, trial: RayTrial) -> None:
        """Neither wait for a member any more nor copy it.

        Where it was the last one that the others waited for, the round takes place now.
        """
        state = self._trial_state[trial]
        state.last_train_time, state.last_score = int(self._next_perturbation_sync), None
        others = [one for one in tune_controller.get_live_trials() if one is not trial]
        if others and all(
            self._trial_state[one].last_train_time >= self._next_perturbation_sync for one in others
        ):
            waiting = others[0]
            result = cast("dict[str, Any]", self._trial_state[waiting].last_result)
            self.on_trial_result(tune_controller, waiting, result)

    def _get_new_config(
        self, trial: RayTrial, trial_to_clone: RayTrial
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration of a trial that copies another.

        It keeps the trial's own name, and has the other's settings changed.
        """
        plan, donor = trial.config["trial"], trial_to_clone.config["trial"]
        epoch = int(self._next_perturbation_sync)
        changes = explore(self._space, donor.changes, random.Random(f"{epoch} {plan.arm}"))
        # Ray has waited for the checkpoint of a trial that it copies.
        copied = cast("Checkpoint", self._trial_state[trial_to_clone].last_checkpoint).path
        stage = Stage(epoch=epoch, changes=changes, donor=donor.arm, checkpoint=copied)
        self._copies[plan.arm] = stage
        new_plan = dataclasses.replace(plan, changes=changes, stages=(*plan.stages, stage))
        return trial.config | {"trial": new_plan}, {}
