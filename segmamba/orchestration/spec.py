"""How a study is declared: one question, its arms, and the claim that decides it. Files in `search_spaces/` build one each."""

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
        for role, arm in (("baseline", self.baseline), ("hypothesis.better", self.hypothesis.better), ("hypothesis.than", self.hypothesis.than)):
            if arm not in self.arms:
                raise UserError(f"study {self.name}: {role} is {arm!r}, which is no arm; the arms are {', '.join(self.arms)}")

    def trials(self, seeds):
        """Every arm with every seed, seed by seed, so that an interrupted study has whole comparisons."""
        return [TrialPlan(arm=arm, seed=seed) for seed in range(seeds) for arm in self.arms]

    def configs(self, base, chosen):
        """{arm: Config}: the arms' changes on `base`. `chosen` are the user's own settings: they may not touch what the arms vary."""
        for arm, changes in self.arms.items():
            for name in changes.keys() & chosen.keys():
                raise UserError(f"--set {name}: the study {self.name} varies this setting itself (arm {arm!r}); leave it to the study")
        return {arm: base.changed(changes) for arm, changes in self.arms.items()}
