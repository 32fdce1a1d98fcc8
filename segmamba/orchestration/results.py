"""What a finished study is: the declared question, and one Trial per arm and seed, as read back from MLflow."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A claim that a contrast of two arms on one region decides."""

    claim: str
    """One sentence, as the mission states it."""
    region: str
    """ET, TC, WT or mean: which judge Dice decides."""
    better: str
    """The arm that is claimed to score higher ..."""
    than: str
    """... than this arm."""
    margin: float = 0.005
    """Smallest difference in Dice (0 to 1) that matters; 0.005 is half a Dice point."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study."""

    run_id: str
    arm: str
    seed: int
    status: str
    """MLflow's: FINISHED, FAILED, KILLED or RUNNING; NOT STARTED where the trial has no run."""
    reason: str = ""
    """Why it did not finish; empty when it did."""
    folder: str = ""
    params: dict = field(default_factory=dict)
    """The full flat configuration, as MLflow's strings."""
    metrics: dict = field(default_factory=dict)
    """Last values: judge/dice_mean, judge/dice_ET, ..., last/judge_..., model/parameters, time/train_total_s, time/judge_s ..."""
    history: dict = field(default_factory=dict)
    """Metric name to a list of (step, value): train/loss, val/dice_mean, val/dice_ET ..."""
    judge_cases: list = field(default_factory=list)
    """One dict per judged case: case, dice_mean, dice_ET, dice_TC, dice_WT, hd95_mm_ET ..."""


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
    preset: str
    config: dict
    """The flat configuration shared by all arms."""
    data: dict
    """source, phantom (bool), convention, train / minival / judge (lists of case ids), judge_is_minival (bool), notes (list of str)."""
    environment: dict
    """Versions and hardware: flat, str to str."""
    command: str
    """The command line that ran it."""
    mlflow_uri: str
    parent_run_id: str
    seconds: float
    """Wall time of the study so far."""
    trials: tuple
    """Trial objects in the order arm, seed; every planned trial is here, finished or not."""
