"""A study and its trials, as they are read back from MLflow."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from segmamba.data.label_sets import GLIOMA, MEAN
from segmamba.errors import UserError
from segmamba.studies.hypothesis import Hypothesis, hypothesis_from
from segmamba.studies.looks import Look, looks_from
from segmamba.studies.registration import Registration
from segmamba.studies.trial_plan import Changes, TrialPlan

__all__ = ["CaseSets", "Hypothesis", "Study", "StudyData", "Trial", "study_data_from", "study_from"]

CaseRow: TypeAlias = dict[str, Any]
"""The scores of one tested case: "case" is its id and "patient" whose it is; dice_mean, hd95_mm_ET,
... are numbers."""
ENDED = ("FINISHED", "STOPPED", "FAILED", "INFEASIBLE")
"""The statuses of trials that have ended, well or not."""
SETTLED = ("FINISHED", "STOPPED", "INFEASIBLE")
"""The statuses of trials that have a result, or get none."""
History: TypeAlias = dict[str, list[tuple[int, float]]]
"""The (step, value) pairs of every metric."""


@dataclass(frozen=True, kw_only=True)
class CaseSets:
    """The case ids of one split."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, tuple[str, ...]]:
        """The ids under the name of each set, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True, kw_only=True)
class StudyData(CaseSets):
    """The data that a study trains and tests on.

    With folds, each set holds the cases that are in it in any of the folds.
    """

    source: str
    """What the cases are, in words, for example their folder."""
    phantom: bool
    """Whether the cases are the embedded phantom's, which is no evidence about patients."""
    convention: str
    """The label conventions of the files, joined with " + "."""
    regions: tuple[str, ...] = GLIOMA.region_names
    """The regions that a case is scored on, beside their mean."""
    test_is_validation: bool = False
    """Whether the test set also serves as the validation set, for want of cases."""
    notes: tuple[str, ...] = ()
    """What was left out, scaled or rounded, and why; one line each."""
    folds: tuple[CaseSets, ...] = ()
    """The sets of each fold; () is one split."""
    patients: dict[str, str] = field(default_factory=dict)
    """Case to patient, of all sets; {} in studies of before 0.3."""

    @property
    def scores(self) -> tuple[str, ...]:
        """What a case is scored on in the order that tables show: the mean, then each region."""
        return (MEAN, *self.regions)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training run of a study."""

    run_id: str
    """Id of its MLflow run; empty where it has none."""
    arm: str
    seed: int
    status: str
    """The status of its MLflow run: FINISHED, FAILED, KILLED or RUNNING; or one of ours.

    STOPPED: a scheduler ended it early. INFEASIBLE: it cannot run on this machine. NOT STARTED: it
    has no run.
    """
    reason: str = ""
    """Why it did not finish, or which run it was taken from; empty otherwise."""
    fold: int | None = None
    """The fold whose test set it was tested on; None in a study without folds."""
    changes: Changes | None = None
    """The settings that a search's trial tried, or that a population's member has now."""
    copied: str = ""
    """Which members of a population it copied, and when."""
    folder: str = ""
    params: dict[str, str] = field(default_factory=dict)
    """The full flat configuration, as MLflow's strings."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last values: test/dice_mean, test/last_dice_mean, model/parameters, time/test_s, ..."""
    history: History = field(default_factory=dict)
    """The course of train/loss, val/dice_mean, val/dice_ET, ..."""
    test_cases: list[CaseRow] = field(default_factory=list)
    """One row for each tested case."""
    digest: str = ""
    """The name of all that its result depends on, its seed included; empty where it has none."""
    made_with: dict[str, str] = field(default_factory=dict)
    """The code, torch, device and prepared cases; {} in studies of before 0.3."""

    @property
    def key(self) -> str:
        """The trial's name within the study, which is that of its TrialPlan."""
        return TrialPlan(arm=self.arm, seed=self.seed, fold=self.fold).key


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as it stands in MLflow."""

    name: str
    """Name of the run, for example ablate_depth_Run01."""
    question: str
    hypothesis: Hypothesis
    baseline: str
    """Name of the arm that the others are compared with."""
    arms: dict[str, Changes]
    """The dotted changes of each arm, in the order of the study's file."""
    seeds: tuple[int, ...]
    """The seeds of the trials; in a sequential study those that some arm trains so far."""
    max_seeds: int = 0
    """The most seeds of a sequential study, which adds seeds until its claim is decided; 0 in a
    study whose seeds were fixed before."""
    arm_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """In a sequential study, the seeds that each arm trains so far; an arm without an entry trains
    all of `seeds`."""
    looks: tuple[Look, ...] = ()
    """The looks that a sequential study has taken."""
    registration: Registration | None = None
    """When its claims were written; None in studies of before 0.3."""
    folds: tuple[int, ...] = ()
    """Numbers of the folds; () is one split."""
    secondary: tuple[Hypothesis, ...] = ()
    """Further claims, each with an answer of its own."""
    space: dict[str, str] = field(default_factory=dict)
    """In a search, what could be tried of each setting, as text."""
    round_every: int = 0
    """Epochs between the rounds of population-based training; 0 in every other study."""
    preset: str
    config: dict[str, Any]
    """The flat configuration that all arms share."""
    data: StudyData
    environment: dict[str, str]
    """Versions and hardware."""
    command: str
    """The command line that ran it."""
    mlflow_uri: str
    parent_run_id: str
    mlflow_page: str = ""
    """Address of the page of MLflow's that lists its runs; empty where none does."""
    pooled_from: tuple[str, ...] = ()
    """The names of the studies that this one puts together; () in a study that was run."""
    seconds: float
    """Wall time from the end of planning, summed over all starts of the study.

    The time between the end of one start and the next one does not count.
    """
    starts: int = 1
    """How often the study was started: 1, and one more for every `--resume`."""
    resource_plan: dict[str, Any] = field(default_factory=dict)
    """How the trials share the machine and what that was expected to cost.

    It is the ResourcePlan of segmamba.orchestration.engine.resource_plan as a dict.
    """
    trials: tuple[Trial, ...]
    """Every planned trial, finished or not, in the order arm, seed, fold."""
    searched: tuple[Trial, ...] = ()
    """The trials of a search in the order tried; only the validation set has scored them."""
    importance: dict[str, float] = field(default_factory=dict)
    """In a search, the share (0 to 1) of the variation in validation Dice due to each setting."""
    schedule: list[dict[str, Any]] = field(default_factory=list)
    """The schedule that population-based training found.

    From "epoch" on the settings "changes" train; "donor" is the member that was copied then.
    """

    @functools.cached_property
    def known(self) -> dict[Any, Any]:
        """What was computed of it once and for all; see `once` of scores.py."""
        return {}

    @property
    def test_sets_vary(self) -> bool:
        """Whether the seeds are tested on different patients.

        They are where the split varies with the seed, unless all folds together test everybody or a
        file says who is tested.
        """
        varies = bool(self.config.get("data.split_by_seed"))
        return varies and not self.folds and not self.config.get("data.splits_file")

    @property
    def claims(self) -> tuple[Hypothesis, ...]:
        """The hypothesis and the secondary claims."""
        return (self.hypothesis, *self.secondary)

    @property
    def over(self) -> frozenset[str]:
        """The keys of the trials that no further start runs again.

        A trial that failed is run again, unless a look has counted it as failed or the last look
        has been taken.
        """
        looked_at: Sequence[int] = ()
        if self.looks:
            last = self.looks[-1].seeds if self.awaits_look else None
            looked_at = self.seed_range[:last]
        return frozenset(
            trial.key
            for trial in self.trials
            if trial.status in SETTLED or (trial.seed in looked_at and trial.status in ENDED)
        )

    @property
    def to_run_again(self) -> tuple[Trial, ...]:
        """The trials that failed and that a further start runs again."""
        over = self.over
        failed = (trial for trial in self.trials if trial.status == "FAILED")
        return tuple(trial for trial in failed if trial.key not in over)

    @property
    def seed_range(self) -> range:
        """The seeds that may be trained: all of `max_seeds` in a sequential study."""
        first = min(self.seeds, default=0)
        return range(first, first + (self.max_seeds or len(self.seeds)))

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Those of `seeds` that an arm trains.

        Args:
            arm: Name of the arm.

        Returns:
            All of them, but of an arm that a sequential study dropped.
        """
        if arm not in self.arm_seeds:
            return self.seeds
        own = set(self.arm_seeds[arm])
        return tuple(seed for seed in self.seeds if seed in own)

    @property
    def awaits_look(self) -> bool:
        """Whether a sequential study has a look still to take."""
        return bool(self.max_seeds) and (not self.looks or bool(self.looks[-1].arms))

    @property
    def plans(self) -> list[TrialPlan]:
        """Every planned trial, in the order arm, seed, fold."""
        return [
            TrialPlan(arm=arm, seed=seed, fold=fold)
            for arm in self.arms
            for seed in self.seeds_of(arm)
            for fold in self.folds or (None,)
        ]


def study_from(stored: Mapping[str, Any], **now: Any) -> Study:
    """Restore the Study that `dataclasses.asdict` and JSON made a dict of.

    Args:
        stored: The dict. A plan of resources may also stand under its earlier name "budget".
        **now: Fields of the Study that the dict lacks, or that have changed since.

    Returns:
        The Study.

    Raises:
        UserError: If a version before 0.2 stored the study.
    """
    fields = dict(stored)
    if not {"validation", "test"} <= fields["data"].keys():
        raise UserError(
            f"study {fields.get('name', '')}: a version of segmamba before 0.2 made it; "
            "read it with that version, or run the study again"
        )
    if "budget" in fields:
        fields["resource_plan"] = fields.pop("budget")
    fields |= {name: tuple(fields.get(name, ())) for name in ("seeds", "folds", "pooled_from")}
    fields |= {
        "hypothesis": hypothesis_from(fields["hypothesis"]),
        "secondary": tuple(hypothesis_from(claim) for claim in fields.get("secondary", ())),
        "data": study_data_from(fields["data"]),
        "looks": looks_from(fields.get("looks", ())),
    }
    return Study(**(fields | now))


def study_data_from(stored: Mapping[str, Any]) -> StudyData:
    """Restore the StudyData that `dataclasses.asdict` and JSON made a dict of.

    Args:
        stored: The dict; its lists become tuples.

    Returns:
        The StudyData.
    """
    folds = tuple(CaseSets(**_tuples(sets)) for sets in stored.get("folds", ()))
    return StudyData(**(_tuples(stored) | {"folds": folds}))


def _tuples(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value)
        if isinstance(value, Iterable) and not isinstance(value, (str, Mapping))
        else value
        for name, value in stored.items()
    }
