"""The plan of a single training run: its arm, seed and fold, and the stages of its settings."""

from dataclasses import dataclass
from typing import Any, TypeAlias

Changes: TypeAlias = dict[str, Any]
"""Dotted names of settings and their values, of whatever type the setting has."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that train a network from an epoch on, until the next stage."""

    epoch: int
    """Number of epochs that are done when the stage begins."""
    changes: Changes
    donor: str = ""
    """The arm whose weights, optimizer and random state were copied; empty: nothing was copied."""
    checkpoint: str = ""
    """Folder of the copy."""


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One planned training run: an arm with a seed, on a fold where the study has folds."""

    arm: str
    seed: int
    fold: int | None = None
    changes: Changes | None = None
    """The settings of a search's trial, whose arm no file declares."""
    stages: tuple[Stage, ...] = ()
    """The stages of a population's member so far; the last one has `changes`."""
    round_every: int = 0
    """Epochs between the rounds of a population; 0 in every other trial.

    At every round the trial hands over a checkpoint.
    """

    @property
    def key(self) -> str:
        """The trial's name within the study; a restart does not change it."""
        return f"{self.arm}, seed {self.seed}" + (
            f", fold {self.fold}" if self.fold is not None else ""
        )
