"""What is minimised."""

from dataclasses import dataclass

from segmamba.config.rules import require


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    dice_weight: float = 1.0
    """Weight of the Dice loss (lambda_dice); 0 is off."""
    ce_weight: float = 1.0
    """Weight of the cross entropy (lambda_ce); 0 is off."""
    dice_smooth: float = 1e-5
    """Epsilon in numerator and denominator of the Dice; keeps an absent class finite. MONAI's and nnU-Net's value."""

    def __post_init__(self):
        require(self.dice_weight >= 0, "loss.dice_weight", self.dice_weight, "must be 0 (off) or more")
        require(self.ce_weight >= 0, "loss.ce_weight", self.ce_weight, "must be 0 (off) or more")
        require(self.dice_weight + self.ce_weight > 0, "loss.ce_weight", self.ce_weight, "one of dice_weight and ce_weight must be above 0")
        require(self.dice_smooth > 0, "loss.dice_smooth", self.dice_smooth, "must be above 0")
