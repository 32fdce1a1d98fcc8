"""What a finished study is: the declared question, and one Trial per arm and seed, as read back from MLflow."""

from dataclasses import dataclass, field

from segmamba.studies.hypothesis import Hypothesis, hypothesis_from
from segmamba.studies.spec import TrialPlan

__all__ = ["Hypothesis", "Study", "Trial", "study_from"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study."""

    run_id: str
    arm: str
    seed: int
    status: str
    """MLflow's: FINISHED, FAILED, KILLED or RUNNING; STOPPED where a scheduler ended it early, INFEASIBLE where it cannot run here at
    all, NOT STARTED where the trial has no run."""
    reason: str = ""
    """Why it did not finish, or which run it was taken from; empty otherwise."""
    fold: int | None = None
    """Of a study with folds: whose test set it was tested on."""
    changes: dict | None = None
    """Of a search's trial: the settings that were tried; of a population's member, those it has now."""
    copied: str = ""
    """Of a population's member: whom it copied, and when."""
    folder: str = ""
    params: dict = field(default_factory=dict)
    """The full flat configuration, as MLflow's strings."""
    metrics: dict = field(default_factory=dict)
    """Last values: test/dice_mean, test/dice_ET, ..., test/last_..., model/parameters, time/train_total_s, time/test_s ..."""
    history: dict = field(default_factory=dict)
    """Metric name to a list of (step, value): train/loss, val/dice_mean, val/dice_ET ..."""
    test_cases: list = field(default_factory=list)
    """One dict per tested case: case, dice_mean, dice_ET, dice_TC, dice_WT, hd95_mm_ET ..."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as it stands in MLflow."""

    name: str
    """ablate_depth_Run01."""
    question: str
    hypothesis: Hypothesis
    baseline: str
    """Name of the arm that the others are compared with."""
    arms: dict
    """Arm name to its dotted changes, in the order of the study's file."""
    seeds: tuple
    folds: tuple = ()
    """Numbers of the folds; () is one split."""
    secondary: tuple = ()
    """Further Hypotheses."""
    space: dict = field(default_factory=dict)
    """Of a search: setting to what could be tried, as text."""
    round_every: int = 0
    """Of a search by population-based training: epochs between its rounds; 0 is another search, or none."""
    preset: str
    config: dict
    """The flat configuration shared by all arms."""
    data: dict
    """source, phantom (bool), convention, train / validation / test (lists of case ids), test_is_validation (bool), notes (list of str)."""
    environment: dict
    """Versions and hardware: flat, str to str."""
    command: str
    """The command line that ran it."""
    mlflow_uri: str
    parent_run_id: str
    seconds: float
    """Wall time of the study so far, from the end of its planning."""
    budget: dict = field(default_factory=dict)
    """How its trials share the machine and what that was expected to cost: a segmamba.orchestration.engine.resource_plan.ResourcePlan as a dict."""
    trials: tuple
    """Trial objects in the order arm, seed, fold; every planned trial is here, finished or not."""
    searched: tuple = ()
    """Of a search: its Trials, in the order in which they were tried; seen by the validation set alone."""
    importance: dict = field(default_factory=dict)
    """Of a search: setting to its share, 0 to 1, in what the search's trials differ by on the validation set."""
    schedule: list = field(default_factory=list)
    """Of population-based training: what it found, dicts of "epoch", from which on the settings "changes" train, and "donor"."""

    @property
    def claims(self):
        return (self.hypothesis, *self.secondary)

    @property
    def plans(self):
        """Every planned trial, in the order arm, seed, fold."""
        return [
            TrialPlan(arm=arm, seed=seed, fold=fold)
            for arm in self.arms
            for seed in self.seeds
            for fold in self.folds or (None,)
        ]


def study_from(stored, **now):
    """The Study that `dataclasses.asdict` and JSON made of one, with the fields `now` put in."""
    lists = {name: tuple(stored.get(name, ())) for name in ("seeds", "folds")}
    secondary = tuple(hypothesis_from(claim) for claim in stored.get("secondary", ()))
    return Study(
        **stored
        | lists
        | {"hypothesis": hypothesis_from(stored["hypothesis"]), "secondary": secondary}
        | now
    )
