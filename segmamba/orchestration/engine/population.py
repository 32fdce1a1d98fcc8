"""Population-based training (Jaderberg et al. 2017) on Ray's scheduler: at every round the worst members copy the best and change settings.

All members wait for a round, so a copy comes from its own epoch: what a member's MLflow run shows up to there it trained itself, what
follows grew from the copied weights, and no step is missing or there twice. Members start alike but for their settings, and every choice
is drawn from the round's number; so a round that was lost with its driver comes out the same again.
"""

import dataclasses
import json
import random
from pathlib import Path

from ray.tune.schedulers import PopulationBasedTraining

from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.orchestration.engine.search import SEARCH_SEED, search_arm
from segmamba.studies.spec import Stage, TrialPlan

SCORE = "val/dice_mean"  # of the round's own epoch: the best so far would speak for an earlier one
QUANTILE = 0.25  # of the population copies the same share at its top
RESAMPLE = 0.25  # chance of a setting drawn afresh instead of changed a little


class Rounds:
    """What the rounds decided, kept in the study's folder: each member's Stages, and the epoch of the last round."""

    def __init__(self, folder, every):
        self._file, self.every, self.done, self.members = (
            Path(folder) / "population.json",
            every,
            0,
            {},
        )
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            self.done = kept["done"]
            self.members = {
                arm: tuple(_stage(one) for one in stages) for arm, stages in kept["members"].items()
            }

    def begin(self, space, baseline, size):
        """The members, those of an earlier start of the study where there was one. Raises UserError where that had another size."""
        if not self.members:
            self.members = {
                arm: (Stage(epoch=0, changes=changes),)
                for arm, changes in first_settings(space, baseline, size).items()
            }
            self._keep()
        if len(self.members) != size:
            raise UserError(
                f"--resume: the population has {len(self.members)} members; give --trials {len(self.members)}"
            )

    def plan(self, arm):
        stages = self.members[arm]
        return TrialPlan(
            arm=arm,
            seed=SEARCH_SEED,
            changes=stages[-1].changes,
            stages=stages,
            round_every=self.every,
        )

    def settle(self, epoch, copies):
        """Write down a round: `copies` are {arm: Stage}."""
        self.done = epoch
        self.members |= {arm: (*self.members[arm], stage) for arm, stage in copies.items()}
        self._keep()

    def lineage(self, arm, until=None):
        """The Stages that made the weights of `arm`, those of whom it was copied from first."""
        own = []
        for stage in reversed(self.members[arm]):
            if until is not None and stage.epoch >= until:
                continue
            own.insert(0, stage)
            if stage.donor:
                return self.lineage(stage.donor, stage.epoch) + own
        return own

    def _keep(self):
        members = {
            arm: [dataclasses.asdict(stage) for stage in stages]
            for arm, stages in self.members.items()
        }
        write_json(self._file, {"done": self.done, "members": members})


def _stage(kept):
    """Tuples were made lists by JSON."""
    changes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in kept["changes"].items()
    }
    return Stage(**kept | {"changes": changes})


def first_settings(space, baseline, size):
    """{arm: settings}: the baseline's, then some at random."""
    rng = random.Random(SEARCH_SEED)
    for name, distribution in space.items():
        distribution.from_setting(baseline[name])  # a UserError where the space leaves it out
    drawn = [
        {name: distribution.draw(rng) for name, distribution in space.items()}
        for _ in range(size - 1)
    ]
    return {
        search_arm(number): settings
        for number, settings in enumerate([{name: baseline[name] for name in space}, *drawn])
    }


def explore(space, settings, rng):
    """Other settings within the space: each a little smaller or larger, or the next of a list, or now and then drawn afresh."""
    return {
        name: distribution.draw(rng)
        if rng.random() < RESAMPLE
        else distribution.near(settings[name], rng)
        for name, distribution in space.items()
    }


class Population(PopulationBasedTraining):
    """Ray's, in step: all wait for a round. A trial keeps its name when it copies another, and each round is written down before it counts.

    rounds: a Rounds that has begun; epochs: of a whole training, after whose last there is no round.
    """

    def __init__(self, space, rounds, epochs):
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
        self._space, self._rounds, self._epochs, self._copies = space, rounds, epochs, {}
        self._next_perturbation_sync = rounds.done + rounds.every

    def on_trial_add(self, tune_controller, trial):
        super().on_trial_add(tune_controller, trial)
        self._trial_state[trial].last_perturbation_time = self._rounds.done

    def on_trial_result(self, tune_controller, trial, result):
        if (
            "failed" in result
            or result["epoch"] % self._rounds.every
            or result["epoch"] >= self._epochs
        ):
            return self.CONTINUE
        pending, before, self._copies = self._next_perturbation_sync, random.getstate(), {}
        random.seed(pending)  # whom Ray's own random.choice takes as a donor
        try:
            decision = super().on_trial_result(tune_controller, trial, result)
        finally:
            random.setstate(before)
        if self._next_perturbation_sync != pending:
            self._rounds.settle(pending, self._copies)
        return decision

    def on_trial_complete(self, tune_controller, trial, result):
        self._leave(tune_controller, trial)

    def on_trial_error(self, tune_controller, trial):
        self._leave(tune_controller, trial)

    def on_trial_remove(self, tune_controller, trial):
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller, trial):
        """Callback waits for this one any more, nor copies it; where it was the last to be waited for, the round comes now."""
        state = self._trial_state[trial]
        state.last_train_time, state.last_score = self._next_perturbation_sync, None
        others = [one for one in tune_controller.get_live_trials() if one is not trial]
        if others and all(
            self._trial_state[one].last_train_time >= self._next_perturbation_sync for one in others
        ):
            waiting = others[0]
            self.on_trial_result(tune_controller, waiting, self._trial_state[waiting].last_result)

    def _get_new_config(self, trial, trial_to_clone):
        """What Ray gives a trial that copies another: its own name, and the other's settings changed."""
        plan, donor, epoch = (
            trial.config["trial"],
            trial_to_clone.config["trial"],
            self._next_perturbation_sync,
        )
        changes = explore(self._space, donor.changes, random.Random(f"{epoch} {plan.arm}"))
        copied = self._trial_state[trial_to_clone].last_checkpoint.path
        stage = Stage(epoch=epoch, changes=changes, donor=donor.arm, checkpoint=copied)
        self._copies[plan.arm] = stage
        return trial.config | {
            "trial": dataclasses.replace(plan, changes=changes, stages=(*plan.stages, stage))
        }, {}
