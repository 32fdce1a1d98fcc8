"""The options of a study's command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segmamba.errors import UserError

SCHEDULERS = ("none", "asha", "pbt")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the user chose on the command line.

    Raises:
        UserError: An option is out of range, or two options contradict each other.
    """

    data: Path | None = None
    """Folder of BraTS cases; None is the embedded phantom."""
    labels: str = "auto"
    """The label convention of the cases; auto infers it from the files' names."""
    names: tuple[str, ...] = ()
    """How the cases' files are named, as --names gives it; empty takes the known layouts."""
    preset: str = "demo"
    seeds: int | Literal["auto"] | None = None
    """Training runs per arm and fold, or "auto": as many as the claim needs. None is the study's
    own choice."""
    max_seeds: int | None = None
    """The most training runs per arm and fold where `seeds` is "auto"; None is the study's own
    number."""
    folds: int = 0
    """Folds of a cross-validation, all of them run; 0 is one split."""
    trials: int | None = None
    """Settings that a search tries, or members of its population; None is the study's own
    number."""
    arms: tuple[str, ...] = ()
    """Names of the arms to run; () is the study's choice for the preset, ("all",) all."""
    scheduler: str | None = None
    """none or asha, or pbt for a search. None is asha for a search, and none for arms, which must
    train alike to be compared."""
    fresh: bool = False
    """Train everything again; finished runs with the same settings are not reused."""
    gpus_per_trial: float | None = None
    """None is auto: the share that ends soonest according to a measurement."""
    cpus: int = 0
    """CPU cores for the whole study; 0 is all of the machine's."""
    output: Path = Path("Results")
    resume: bool = False
    """Go on with the newest unfinished study of this name, or start one where there is none."""
    plan: bool = False
    """Measure and report what the study would cost, and begin nothing."""
    ray_address: str | None = None
    """Address of a Ray cluster to run on; None starts Ray on this machine."""
    cache: str | None = None
    """Folder of the preprocessed cases, each node's own where it is not shared; may hold
    environment variables. None is a folder in `output`."""
    viewer: bool = True
    """Whether viewer.html is made at the end, of the worst, median and best case of each arm, where
    the extra `viewer` is installed."""
    changes: dict[str, object] = field(default_factory=dict)
    """Dotted names of settings to the values that `--set` gives them."""

    def __post_init__(self) -> None:
        for name in ("seeds", "trials"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UserError(f"--{name} {value}: at least 1")
        if self.max_seeds is not None and isinstance(self.seeds, int):
            raise UserError(
                f"--max-seeds {self.max_seeds} --seeds {self.seeds}: --max-seeds limits "
                "--seeds auto; give one of the two"
            )
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"--folds {self.folds}: 0 (one split), or at least 2")
        for name, option in (("seed", "seeds"), ("data.fold", "folds")):
            if name in self.changes and (option == "seeds" or self.folds):
                raise UserError(
                    f"--set {name}: the study varies it itself; choose how many with --{option}"
                )
        if self.folds and "data.folds" in self.changes:
            raise UserError("--set data.folds: given by --folds already; leave one of the two out")
        if self.scheduler not in (None, *SCHEDULERS):
            raise UserError(
                f"--scheduler {self.scheduler!r}: choose one of {', '.join(SCHEDULERS)}"
            )
        if self.scheduler == "pbt" and self.trials == 1:
            raise UserError("--scheduler pbt --trials 1: a population has at least 2 members")
        if self.cpus < 0:
            raise UserError(f"--cpus {self.cpus}: must be 0 (all) or more")
        if self.gpus_per_trial is not None and not 0 < self.gpus_per_trial < math.inf:
            raise UserError(
                f"--gpus-per-trial {self.gpus_per_trial:g}: must be above 0, "
                "for example 0.5 for two trials on one GPU"
            )
