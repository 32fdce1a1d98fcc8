"""What the rounds of population-based training decided, and how settings change in a round."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.orchestration.engine.search import SEARCH_SEED, search_arm
from segmamba.studies.spec import Stage, TrialPlan

if TYPE_CHECKING:
    from segmamba.studies.search_space import Distribution

RESAMPLE = 0.25
"""The chance that a setting is drawn afresh instead of changed a little."""


class Rounds:
    """The Stages of each member and the epoch of the last round, kept in the study's folder.

    Args:
        folder: The study's folder. What an earlier start of the study kept there is read.
        every: Epochs between rounds.
    """

    def __init__(self, folder: str | Path, every: int) -> None:
        self._folder, self.every, self.done = Path(folder), every, 0
        self._file = self._folder / "population.json"
        self.members: dict[str, tuple[Stage, ...]] = {}
        if self._file.exists():
            fix = "restore it from a copy, or start the study anew"
            kept = read_json(self._file, _Kept, fix=fix)
            self.done = kept["done"]
            self.members = {
                arm: tuple(self._here(_with_tuples(stage)) for stage in stages)
                for arm, stages in kept["members"].items()
            }
            donors = {stage.donor for stages in self.members.values() for stage in stages}
            if empty := [arm for arm, stages in self.members.items() if not stages]:
                raise UserError(f"{self._file}: member {empty[0]!r} has no stages; {fix}")
            if unknown := donors - self.members.keys() - {""}:
                raise UserError(f"{self._file}: {min(unknown)!r} is no member; {fix}")

    def begin(
        self, space: Mapping[str, Distribution], baseline: Mapping[str, object], size: int
    ) -> None:
        """Make the members, unless an earlier start of the study has made them.

        Args:
            space: Setting to what it may be.
            baseline: Setting to the baseline's value.
            size: How many members there are.

        Raises:
            UserError: The earlier start had another number of members.
        """
        if not self.members:
            self.members = {
                arm: (Stage(epoch=0, changes=changes),)
                for arm, changes in first_settings(space, baseline, size).items()
            }
            self._keep()
        if len(self.members) != size:
            raise UserError(
                f"--resume: the population has {len(self.members)} members; "
                f"give --trials {len(self.members)}"
            )

    def plan(self, arm: str) -> TrialPlan:
        """The trial of a member, with what the rounds decided so far."""
        stages = self.members[arm]
        return TrialPlan(
            arm=arm,
            seed=SEARCH_SEED,
            changes=stages[-1].changes,
            stages=stages,
            round_every=self.every,
        )

    def settle(self, epoch: int, copies: Mapping[str, Stage]) -> None:
        """Write down a round.

        Args:
            epoch: Of the round.
            copies: Arm of each member that copied another to its new Stage.
        """
        self.done = epoch
        self.members |= {arm: (*self.members[arm], stage) for arm, stage in copies.items()}
        self._keep()

    def lineage(self, arm: str, until: int | None = None) -> list[Stage]:
        """The Stages that made the weights of a member, those of its donors first.

        Args:
            arm: The member.
            until: The epoch up to which Stages count; None is all.
        """
        own: list[Stage] = []
        for stage in reversed(self.members[arm]):
            if until is not None and stage.epoch >= until:
                continue
            own.insert(0, stage)
            if stage.donor:
                return self.lineage(stage.donor, stage.epoch) + own
        return own

    def _keep(self) -> None:
        members = {
            arm: [dataclasses.asdict(stage) | {"checkpoint": self._kept(stage)} for stage in stages]
            for arm, stages in self.members.items()
        }
        write_json(self._file, {"done": self.done, "members": members})

    def _kept(self, stage: Stage) -> str:
        """The copy of a Stage as seen from the study's folder, which may be moved."""
        copy = Path(stage.checkpoint)
        below = copy.is_relative_to(self._folder)
        return str(copy.relative_to(self._folder)) if below else stage.checkpoint

    def _here(self, stage: Stage) -> Stage:
        """A Stage that was kept, with its copy where the study's folder is now."""
        copy, name = Path(stage.checkpoint), self._folder.name
        if not stage.checkpoint:
            return stage
        if copy.is_absolute() and not copy.exists() and name in copy.parts:
            # A version before 0.4 kept it whole, and the folder was moved.
            behind = copy.parts[::-1].index(name)
            copy = Path(*copy.parts[len(copy.parts) - behind :])
        return dataclasses.replace(stage, checkpoint=str(self._folder / copy))


class _Kept(TypedDict):
    """What population.json holds."""

    done: int
    members: dict[str, list[Stage]]


def _with_tuples(kept: Stage) -> Stage:
    """The Stage that was written as JSON, which made lists of tuples."""
    changes = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in kept.changes.items()
    }
    return dataclasses.replace(kept, changes=changes)


def first_settings(
    space: Mapping[str, Distribution], baseline: Mapping[str, object], size: int
) -> dict[str, dict[str, object]]:
    """The settings with which the members begin: the baseline's, then some at random.

    Args:
        space: Setting to what it may be.
        baseline: Setting to the baseline's value.
        size: How many members there are.

    Returns:
        Arm of each member to its settings.

    Raises:
        UserError: The space does not contain the baseline.
    """
    rng = random.Random(SEARCH_SEED)
    for name, distribution in space.items():
        distribution.from_setting(baseline[name])
    drawn = [
        {name: distribution.draw(rng) for name, distribution in space.items()}
        for _ in range(size - 1)
    ]
    return {
        search_arm(number): settings
        for number, settings in enumerate([{name: baseline[name] for name in space}, *drawn])
    }


def explore(
    space: Mapping[str, Distribution], settings: Mapping[str, object], rng: random.Random
) -> dict[str, object]:
    """Other settings within the space.

    Each becomes a little smaller or larger, or its neighbour in a list, or is drawn afresh with
    the chance RESAMPLE.

    Args:
        space: Setting to what it may be.
        settings: The present settings.
        rng: The source of all random choices.
    """
    return {
        name: distribution.draw(rng)
        if rng.random() < RESAMPLE
        else distribution.near(settings[name], rng)
        for name, distribution in space.items()
    }
