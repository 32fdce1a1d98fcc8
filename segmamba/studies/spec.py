"""How a study is declared: one question, its arms or its search space, and the claim that decides.

A file in `search_spaces/` declares one study as STUDY: a StudySpec, or a function from the preset's
Config to a StudySpec where the arms depend on the preset.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from segmamba.config import Config
from segmamba.errors import UserError
from segmamba.studies.budget import Budget
from segmamba.studies.comparable import check_chosen, check_different, check_may_vary
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.names import arm_called, check_arm_name, check_arms_apart, check_study_name
from segmamba.studies.search_space import Distribution, Times
from segmamba.studies.trial_plan import Changes, Stage, TrialPlan

__all__ = [
    "ALL_ARMS",
    "FOUND",
    "Budget",
    "Changes",
    "Stage",
    "StudyDeclaration",
    "StudySpec",
    "TrialPlan",
    "resolve",
]

ALL_ARMS = "all"
FOUND = "found"  # the arm that has a search's best settings
OFF_BY = 0.02  # the share that rounding may move a multiple of a setting without a note

# Settings that may change while a network trains, and the one below them that may not.
FROM_THE_START = ("optim.name",)
MID_RUN = (
    "optim.",
    "loss.",
    "augment.",
    "data.tumour_centre_share",
    "data.balance_classes",
)


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The declaration of a study.

    A study compares `arms`, each a name with its dotted changes of the configuration; {} is the
    preset as it stands. A changed value is plain, or a Times: a multiple of what all arms share,
    which `--set` may then change.

    A search has a `space` in place of arms. The settings that the validation set likes best become
    the arm "found", which is tested beside the baseline.

    Raises:
        UserError: If a name cannot be used, or something names an arm that the study does not have.
    """

    name: str
    """Letters, digits, "_", "." and "-"; runs are called NAME_Run01, NAME_Run02, ..."""
    question: str
    hypothesis: Hypothesis
    secondary: tuple[Hypothesis, ...] = ()
    """Further claims, each with an answer of its own below the first."""
    baseline: str
    """Name of the arm that every other arm is compared with."""
    arms: dict[str, Changes] = field(default_factory=dict)
    space: Mapping[str, Distribution] = field(default_factory=dict)
    """In a search, what each setting may be: Between or OneOf."""
    population_space: tuple[str, ...] = ()
    """The settings of `space` that population-based training varies; () is all.

    The others stay as the baseline has them.
    """
    asks_for: tuple[str, ...] = ()
    """Settings that `--set` gives although arms vary them: the declaration has read the base's."""
    demo_arms: tuple[str, ...] = ()
    """The arms that the demo preset runs unless `--arms` asks for others; () is all."""
    demo: StudySpec | None = None
    """What the demo preset runs in its place unless `--arms` asks for arms: a claim that minutes of
    training can decide. None is the study itself."""
    budget: Budget = field(default_factory=Budget)
    notes: tuple[str, ...] = ()
    """What was left out or scaled, and why; the report shows them."""
    registers_best: bool = True
    """Whether its best trial becomes a version of the registered model `segmamba-NAME`."""

    def __post_init__(self) -> None:
        check_study_name(self.name)
        if self.space:
            object.__setattr__(self, "arms", {self.baseline: {}, FOUND: {}} | self.arms)
        for arm in self.arms:
            check_arm_name(arm, self.name)
        check_arms_apart(self.arms, self.name)
        names = ", ".join(self.arms)
        if self.baseline not in self.arms:
            raise UserError(
                f"study {self.name}: the baseline {self.baseline!r} is no arm; the arms are {names}"
            )
        for arm in itertools.chain(self.demo_arms, *(claim.arms for claim in self.claims)):
            if arm not in self.arms:
                spelled = arm_called(arm, self.arms) in self.arms
                hint = f" (it is {arm!a} here, with other characters there)" if spelled else ""
                raise UserError(
                    f"study {self.name}: {arm!r} is named but is no arm; the arms are {names}{hint}"
                )

    @property
    def claims(self) -> tuple[Hypothesis, ...]:
        """The hypothesis and the secondary claims."""
        return (self.hypothesis, *self.secondary)

    def only(self, names: Iterable[str], preset: str) -> StudySpec:
        """Restrict the study to some of its arms.

        Args:
            names: The arms that the user asks for, with the baseline among them. None: the demo's
                selection in the demo preset, otherwise all arms. "all": all arms.
            preset: Name of the preset.

        Returns:
            The study with these arms, with the claims that they can answer.

        Raises:
            UserError: If a name is no arm, or the baseline is missing.
        """
        names = [arm_called(name, self.arms) for name in names]
        chosen = bool(names)
        if ALL_ARMS in names:
            return self
        if not names and preset == "demo" and self.demo:
            return self.demo
        if not names:
            names = list(self.demo_arms if preset == "demo" else ()) or list(self.arms)
        for name in names:
            if name not in self.arms:
                raise UserError(
                    f"--arms {name!r}: the study {self.name} has no such arm; "
                    f"it has {', '.join(map(repr, self.arms))}"
                )
        if self.baseline not in names:
            raise UserError(
                f"--arms: the baseline {self.baseline!r} must be among them, "
                "since every arm is compared with it"
            )
        kept = {name: changes for name, changes in self.arms.items() if name in names}
        if len(kept) == len(self.arms):
            return self
        claims = [claim.within(kept) for claim in self.claims]
        by_whom = (
            "--arms leaves out" if chosen else "the demo preset leaves out (--arms all runs them)"
        )
        return dataclasses.replace(
            self,
            arms=kept,
            demo_arms=(),
            hypothesis=claims[0],
            secondary=tuple(c for c in claims[1:] if c.contrasts),
            notes=(*self.notes, *self._notes_on_left_out(kept, claims[0], by_whom)),
        )

    def _notes_on_left_out(
        self, kept: Collection[str], claim: Hypothesis, by_whom: str
    ) -> Iterator[str]:
        yield f"{by_whom}: {', '.join(arm for arm in self.arms if arm not in kept)}"
        if claim.left_out:
            undecided = ", ".join(claim.left_out)
            yield f"without these arms the question cannot be decided on {undecided}"

    def as_population(self) -> StudySpec:
        """Restrict the search to what population-based training can do.

        Returns:
            The study, with a space of those settings that may change while a network trains.

        Raises:
            UserError: If the study has no space, or would vary a setting that cannot change then.
        """
        if not self.space:
            raise UserError(
                f"--scheduler pbt: {self.name} compares arms and has no search space; "
                "leave --scheduler out"
            )
        names = self.population_space or tuple(self.space)
        if unknown := [name for name in names if name not in self.space]:
            raise UserError(
                f"study {self.name}: population_space names {', '.join(unknown)}, "
                "which the space does not have"
            )
        if fixed := [
            name for name in names if not name.startswith(MID_RUN) or name in FROM_THE_START
        ]:
            raise UserError(
                f"--scheduler pbt: {', '.join(fixed)} cannot change while a network trains; "
                f"list the others as population_space of the study {self.name}, "
                "or take --scheduler asha"
            )
        left = [name for name in self.space if name not in names]
        notes = (
            [f"population-based training leaves {', '.join(left)} as the baseline has it"]
            if left
            else []
        )
        return dataclasses.replace(
            self,
            space={name: self.space[name] for name in names},
            population_space=(),
            notes=(*self.notes, *notes),
        )

    def trials(self, seeds: Sequence[int], folds: Sequence[int] = ()) -> list[TrialPlan]:
        """Plan every arm with every seed on every fold.

        Args:
            seeds: The seeds.
            folds: Numbers of the folds; () is one split.

        Returns:
            The plans, seed by seed, so that an interrupted study has whole comparisons.
        """
        return [
            TrialPlan(arm=arm, seed=seed, fold=fold)
            for seed in seeds
            for fold in folds or (None,)
            for arm in self.arms
        ]

    def plain(self, base: Config) -> StudySpec:
        """Replace every Times by a number.

        Args:
            base: What all arms share.

        Returns:
            The study with plain values, and a note on each that rounding moves by more than OFF_BY.

        Raises:
            UserError: If a multiple is asked of what is no number.
        """
        shared = base.to_flat_dict()
        arms: dict[str, Changes] = {}
        notes: list[str] = []
        for arm, changes in self.arms.items():
            scaled = {
                name: times
                for name, times in changes.items()
                if isinstance(times, Times) and name in shared
            }
            for name, times in scaled.items():
                value = shared[name]
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise UserError(
                        f"study {self.name}: arm {arm!r} has {name} {times}, but {value!r} is no "
                        "number; give a plain value"
                    )
                if note := times.note(name, value, OFF_BY):
                    notes.append(f"{arm}: {note}")
            arms[arm] = changes | {name: times.of(shared[name]) for name, times in scaled.items()}
        return dataclasses.replace(self, arms=arms, notes=(*self.notes, *notes))

    def configs(self, base: Config, chosen: Collection[str]) -> dict[str, Config]:
        """Apply the changes of every arm.

        Args:
            base: What all arms share.
            chosen: Dotted names of the settings that the user gave values. They may scale what an
                arm varies, but not replace it.

        Returns:
            The Config of each arm.

        Raises:
            UserError: If the user sets what the study varies, an arm changes what all arms share,
                or two arms would be the same.
        """
        check_chosen(self, chosen)
        check_may_vary(self)
        configs = {arm: base.changed(changes) for arm, changes in self.plain(base).arms.items()}
        if not self.space:
            check_different(self, configs)
        return configs


StudyDeclaration: TypeAlias = StudySpec | Callable[[Config], StudySpec]
"""What a study's file declares as STUDY."""


def resolve(study: StudyDeclaration, base: Config) -> StudySpec:
    """The StudySpec that a study's file declares.

    Args:
        study: A StudySpec, or a function that makes one of the preset's Config.
        base: The preset's Config.

    Returns:
        The StudySpec.
    """
    return study if isinstance(study, StudySpec) else study(base)
