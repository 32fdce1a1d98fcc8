"""What is minimised."""

from dataclasses import dataclass

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Dice loss, cross entropy and the losses of deep supervision."""

    dice_weight: float = 1.0
    """Weight of the Dice loss (lambda_dice); 0 is off."""
    ce_weight: float = 1.0
    """Weight of the cross entropy (lambda_ce), binary where `model.outputs` is regions; 0 is
    off."""
    dice_smooth: float = 1e-5
    """Epsilon in numerator and denominator of the Dice, which keeps an absent class finite. MONAI's
    and nnU-Net's value."""
    deep_supervision_decay: float = 0.5
    """Weight of each output of `model.deep_supervision` as a share of the next finer one's; the
    weights sum to 1. 0: the finest alone. nnU-Net halves them (Isensee et al. 2021, supplement);
    Lee et al. 2015 introduced the losses themselves."""

    def __post_init__(self) -> None:
        require_each(
            self,
            "loss",
            ("dice_weight", "ce_weight"),
            lambda weight: weight >= 0,
            "must be 0 (off) or more",
        )
        require(
            self.dice_weight + self.ce_weight > 0,
            "loss.ce_weight",
            self.ce_weight,
            "one of dice_weight and ce_weight must be above 0",
        )
        require(
            0 <= self.deep_supervision_decay <= 1,
            "loss.deep_supervision_decay",
            self.deep_supervision_decay,
            "must lie in [0, 1]",
        )
        require(self.dice_smooth > 0, "loss.dice_smooth", self.dice_smooth, "must be above 0")
