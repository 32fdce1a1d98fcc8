"""How a study is declared: one question, its arms, and the claim that decides it. Files in `search_spaces/` build one each."""

import dataclasses
from dataclasses import dataclass, field

from segmamba.errors import UserError
from segmamba.orchestration.results import Hypothesis

__all__ = ["Hypothesis", "StudySpec", "TrialPlan"]


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One planned training run: an arm with a seed."""

    arm: str
    seed: int

    @property
    def key(self):
        """Its name within the study; the same after a restart."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study. Arms map a name to dotted changes of the configuration, {} being the baseline as the preset has it."""

    name: str
    question: str
    hypothesis: Hypothesis
    baseline: str
    arms: dict
    notes: tuple = field(default=())
    """What was left out and why; printed in the report."""

    def __post_init__(self):
        if self.baseline not in self.arms:
            raise UserError(f"study {self.name}: the baseline {self.baseline!r} is no arm; the arms are {', '.join(self.arms)}")

    def only(self, names):
        """The study with just these arms; the baseline must be among them. No name keeps all."""
        for name in names:
            if name not in self.arms:
                raise UserError(f"--arms {name!r}: the study {self.name} has no such arm; it has {', '.join(map(repr, self.arms))}")
        left_out = [arm for arm in (self.hypothesis.better, self.hypothesis.than) if names and arm not in names]
        if names and self.baseline not in names:
            raise UserError(f"--arms: the baseline {self.baseline!r} must be among them, since every arm is compared with it")
        kept = {name: changes for name, changes in self.arms.items() if not names or name in names}
        note = (f"--arms left out {' and '.join(map(repr, left_out))}, without which the question cannot be decided",) if left_out else ()
        return dataclasses.replace(self, arms=kept, notes=(*self.notes, *note))

    def trials(self, seeds):
        """Every arm with every seed, seed by seed, so that an interrupted study has whole comparisons."""
        return [TrialPlan(arm=arm, seed=seed) for seed in range(seeds) for arm in self.arms]

    def configs(self, base, chosen):
        """{arm: Config}: the arms' changes on `base`. `chosen` are the user's own settings: they may not touch what the arms vary."""
        for arm, changes in self.arms.items():
            for name in changes.keys() & chosen.keys():
                raise UserError(f"--set {name}: the study {self.name} varies this setting itself (arm {arm!r}); leave it to the study")
        varied = {name for changes in self.arms.values() for name in changes}
        if base.model.name not in ("segmamba", "control") and "model.mamba_depths" in varied:
            raise UserError(f"--set model.name: {base.model.name} has no Mamba blocks, so the arms of {self.name} would all be the same network")
        return {arm: base.changed(changes) for arm, changes in self.arms.items()}
