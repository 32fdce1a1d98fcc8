"""How a study is declared: one question, its arms or its search space, and the claim that decides it. Files in `search_spaces/` build one each.

Such a file defines STUDY: a StudySpec, or a function from the preset's Config to one where arms depend on the preset.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field

from segmamba.errors import UserError
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.search_space import Times

ALL_ARMS = "all"
FIXED = ("data.", "phantom.", "seed")  # what all arms of a study share ...
FREE = (
    "data.patch_size",
    "data.pad_to_patch",
    "data.tumour_centre_share",
    "data.balance_classes",
    "data.workers",
)  # ... but for what becomes of the cases in training
FOUND = "found"  # the arm of a search's best settings
MID_RUN = (
    "optim.",
    "loss.",
    "augment.",
    "data.tumour_centre_share",
    "data.balance_classes",
)  # what may change while a network trains
OFF_BY = 0.02  # that rounding may move a Times without a word
ROUNDS = 10  # of population-based training, unless the budget says otherwise


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that train a network from an epoch on, until the next Stage."""

    epoch: int
    """Epochs that are done by then."""
    changes: dict
    donor: str = ""
    """The arm whose weights, optimiser and random state were copied then; empty where they are its own."""
    checkpoint: str = ""
    """Folder of the copy."""


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One planned training run: an arm with a seed, on a fold where the study has folds."""

    arm: str
    seed: int
    fold: int | None = None
    changes: dict | None = None
    """Of a search's trial, whose arm no file declares."""
    stages: tuple = ()
    """Of a member of a population: its Stages so far, the last having `changes`."""
    round_every: int = 0
    """Of a member of a population: epochs between rounds, at which it hands over a checkpoint; 0 is none."""

    @property
    def key(self):
        """Its name within the study; the same after a restart."""
        return f"{self.arm}, seed {self.seed}" + (
            f", fold {self.fold}" if self.fold is not None else ""
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a study may cost."""

    seeds: int = 2
    """Training runs of every arm; --seeds changes it."""
    trials: int = 20
    """Of a search: how many settings are tried, or members a population has; --trials changes it."""
    copy_every_epochs: int = 0
    """Of population-based training: epochs between its rounds, a multiple of `train.validate_every_epochs`; 0 is about a tenth of the epochs."""

    def rounds_every(self, train):
        """Epochs between two rounds of population-based training under the TrainConfig `train`; each needs an evaluation of the validation set."""
        validate = train.validate_every_epochs
        every = self.copy_every_epochs or validate * max(1, round(train.epochs / ROUNDS / validate))
        if every % validate:
            raise UserError(
                f"--scheduler pbt: copy_every_epochs {every} must be a multiple of train.validate_every_epochs {validate}"
            )
        if every >= train.epochs:
            raise UserError(
                f"--scheduler pbt: {train.epochs} epochs, evaluated every {validate}, leave no round before the last; "
                "set train.epochs higher or train.validate_every_epochs lower"
            )
        return every


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study. Arms map a name to dotted changes of the configuration, {} being the baseline as the preset has it. A changed value is
    plain, or Times of what all arms share, which --set may then change.

    A search has a `space` instead of arms: what the validation set likes best of it becomes the arm "found", which is tested beside "baseline".
    """

    name: str
    question: str
    hypothesis: Hypothesis
    secondary: tuple = ()
    """Further Hypotheses, each answered on its own below the first."""
    baseline: str
    arms: dict = field(default_factory=dict)
    space: dict = field(default_factory=dict)
    """Of a search: setting to Between or OneOf."""
    population_space: tuple = ()
    """Of a search by population-based training: the settings of `space` that it varies, the others staying the baseline's; () is all."""
    demo_arms: tuple = ()
    """The arms that the demo preset runs unless others are asked for; () is all."""
    budget: Budget = Budget()
    notes: tuple = ()
    """What was left out or scaled and why; printed in the report."""
    registers_best: bool = True
    """Whether its best trial becomes a version of the registered model `segmamba-NAME`."""

    def __post_init__(self):
        if self.space:
            object.__setattr__(self, "arms", {self.baseline: {}, FOUND: {}} | self.arms)
        if self.baseline not in self.arms:
            raise UserError(
                f"study {self.name}: the baseline {self.baseline!r} is no arm; the arms are {', '.join(self.arms)}"
            )
        for arm in itertools.chain(self.demo_arms, *(claim.arms for claim in self.claims)):
            if arm not in self.arms:
                raise UserError(
                    f"study {self.name}: {arm!r} is named but is no arm; the arms are {', '.join(self.arms)}"
                )

    @property
    def claims(self):
        return (self.hypothesis, *self.secondary)

    def only(self, names, preset):
        """The study with just these arms; the baseline must be among them. No name: all, or the demo's selection; "all": all."""
        names, chosen = list(names), bool(names)
        if ALL_ARMS in names:
            return self
        if not names:
            names = list(self.demo_arms if preset == "demo" else ()) or list(self.arms)
        for name in names:
            if name not in self.arms:
                raise UserError(
                    f"--arms {name!r}: the study {self.name} has no such arm; it has {', '.join(map(repr, self.arms))}"
                )
        if self.baseline not in names:
            raise UserError(
                f"--arms: the baseline {self.baseline!r} must be among them, since every arm is compared with it"
            )
        kept = {name: changes for name, changes in self.arms.items() if name in names}
        if len(kept) == len(self.arms):
            return self
        claims = [claim.within(kept) for claim in self.claims]
        return dataclasses.replace(
            self,
            arms=kept,
            demo_arms=(),
            hypothesis=claims[0],
            secondary=tuple(c for c in claims[1:] if c.contrasts),
            notes=(*self.notes, *self._notes_on_left_out(kept, claims[0], chosen)),
        )

    def _notes_on_left_out(self, kept, claim, chosen):
        missing = ", ".join(arm for arm in self.arms if arm not in kept)
        yield f"{'--arms leaves out' if chosen else 'the demo preset leaves out (--arms all runs them)'}: {missing}"
        if claim.left_out:
            yield f"without these arms the question cannot be decided on {', '.join(claim.left_out)}"

    def as_population(self):
        """The search as population-based training can do it: a UserError where it would change what no training network can change."""
        if not self.space:
            raise UserError(
                f"--scheduler pbt: {self.name} compares arms and has no search space; leave --scheduler out"
            )
        names = self.population_space or tuple(self.space)
        if unknown := [name for name in names if name not in self.space]:
            raise UserError(
                f"study {self.name}: population_space names {', '.join(unknown)}, which the space does not have"
            )
        if fixed := [name for name in names if not name.startswith(MID_RUN)]:
            raise UserError(
                f"--scheduler pbt: {', '.join(fixed)} cannot change while a network trains; list the others as population_space "
                f"of the study {self.name}, or take --scheduler asha"
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

    def trials(self, seeds, folds=()):
        """Every arm with every seed on every fold, seed by seed, so that an interrupted study has whole comparisons."""
        return [
            TrialPlan(arm=arm, seed=seed, fold=fold)
            for seed in seeds
            for fold in folds or (None,)
            for arm in self.arms
        ]

    def plain(self, base):
        """The study with every Times as the number that it is on `base`, and a note on each that rounding moves by more than OFF_BY."""
        shared, arms, notes = base.to_flat_dict(), {}, []
        for arm, changes in self.arms.items():
            scaled = {
                name: times
                for name, times in changes.items()
                if isinstance(times, Times) and name in shared
            }
            for name, times in scaled.items():
                if isinstance(shared[name], bool) or not isinstance(shared[name], int | float):
                    raise UserError(
                        f"study {self.name}: arm {arm!r} has {name} {times}, but {shared[name]!r} is no number; give a plain value"
                    )
                notes += (
                    [f"{arm}: {note}"] if (note := times.note(name, shared[name], OFF_BY)) else []
                )
            arms[arm] = changes | {name: times.of(shared[name]) for name, times in scaled.items()}
        return dataclasses.replace(self, arms=arms, notes=(*self.notes, *notes))

    def configs(self, base, chosen):
        """{arm: Config}: the arms' changes on `base`. `chosen` are the user's own settings: they may scale what arms vary, not replace it."""
        for arm, changes in self.arms.items():
            for name in changes.keys() & chosen.keys():
                if not isinstance(changes[name], Times):
                    raise UserError(
                        f"--set {name}: the study {self.name} varies this setting itself (arm {arm!r} has {changes[name]!r}); "
                        f"leave --set {name} out"
                    )
        for name in self.space.keys() & chosen.keys():
            raise UserError(
                f"--set {name}: the study {self.name} searches this setting itself; leave it to the study"
            )
        for name in {
            *self.space,
            *(name for changes in self.arms.values() for name in changes if name != "seed"),
        }:  # members may bring seeds
            if name.startswith(FIXED) and name not in FREE:
                raise UserError(
                    f"study {self.name}: {name} may not vary, since all arms share cases and splits"
                )
        configs = {arm: base.changed(changes) for arm, changes in self.plain(base).arms.items()}
        if not self.space:
            self._check_different(configs)
        return configs

    def _check_different(self, configs):
        """A UserError where two arms would be one network: their settings differ in nothing, or in nothing that their network reads."""
        for (arm, config), (other, rival) in itertools.combinations(configs.items(), 2):
            blockless = config.model.name == rival.model.name and config.model.name not in (
                "segmamba",
                "control",
            )
            depths = {"model.mamba_depths": ()} if blockless else {}
            if config.to_flat_dict() | depths == rival.to_flat_dict() | depths:
                why = (
                    f"--set model.name: {config.model.name} has no Mamba blocks, so "
                    if blockless
                    else f"study {self.name}: "
                )
                rounded = [
                    name
                    for name, value in (self.arms[arm] | self.arms[other]).items()
                    if isinstance(value, Times)
                ]
                fix = (
                    f"; set {' and '.join(rounded)} higher: rounding makes them one"
                    if rounded
                    else ""
                )
                raise UserError(
                    f"{why}the arms {arm!r} and {other!r} of {self.name} would be the same{fix}"
                )


def resolve(study, base):
    """The StudySpec of a study's file: itself, or what its function makes of the preset's Config `base`."""
    return study if isinstance(study, StudySpec) else study(base)
