"""What a study may spend: seeds, trials, and the rounds of a population."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config import TrainConfig
from segmamba.errors import UserError

AUTO: Literal["auto"] = "auto"
"""As many seeds as the claim needs."""
USUAL_MAX_SEEDS = 10
ROUNDS = 10  # of population-based training, unless the budget says otherwise


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a study may spend."""

    seeds: int | Literal["auto"] = AUTO
    """Training runs of every arm, or "auto": as many as the claim needs, `max_seeds` at most.

    `--seeds` changes it.
    """
    max_seeds: int = USUAL_MAX_SEEDS
    """The most training runs of every arm where `seeds` is "auto"; `--max-seeds` changes it."""
    trials: int = 20
    """Settings that a search tries, or members of a population; `--trials` changes it."""
    copy_every_epochs: int = 0
    """Epochs between the rounds of population-based training.

    It is a multiple of `train.validate_every_epochs`; 0 takes about a tenth of the epochs.
    """

    def rounds_every(self, train: TrainConfig) -> int:
        """The epochs between two rounds of population-based training.

        Every round needs an evaluation of the validation set.

        Args:
            train: The training settings that the population shares.

        Returns:
            The number of epochs.

        Raises:
            UserError: If it does not fit the evaluations, or leaves no round before the last epoch.
        """
        validate = train.validate_every_epochs
        every = self.copy_every_epochs or validate * max(1, round(train.epochs / ROUNDS / validate))
        if every % validate:
            raise UserError(
                f"--scheduler pbt: copy_every_epochs {every} must be a multiple of "
                f"train.validate_every_epochs {validate}"
            )
        if every >= train.epochs:
            raise UserError(
                f"--scheduler pbt: {train.epochs} epochs, evaluated every {validate}, leave no "
                "round before the last; set train.epochs higher or train.validate_every_epochs "
                "lower"
            )
        return every
