"""Learning beyond the plain loop, all off by default.

Fewer patients, averaged weights, hard cases, pretraining, a mean teacher.
"""

from dataclasses import dataclass

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class LearningConfig:
    """Fewer patients, averaged weights, hard cases, pretraining and a mean teacher."""

    training_share: float = 1.0
    """Share of the patients to train on that a run learns from; the others are left out. Its seed
    draws them, and a larger share keeps those of a smaller one. 1 is all."""
    ema_decay: float = 0.0
    """Decay, per optimiser step, of an exponential moving average of the weights, which is then
    validated, kept and tested; 0 is off. Polyak & Juditsky 1992; 0.999 is usual, 0.99 for runs of a
    few hundred steps. Its start is warmed up: see segmamba.training.ema."""
    hard_case_factor: float = 1.0
    """How many times as often the hardest training case is drawn as the easiest, by recent loss,
    the others between them by rank (Loshchilov & Hutter 2015, online batch selection); 1 is off.
    Above 1 the workers start afresh each epoch, with the losses up to it."""
    initial_weights: str = ""
    """Path of weights to start from: a run's checkpoint or what `segmamba pretrain` wrote. Its
    other input channels and output classes are matched by name, or begin anew, which is printed;
    all else must fit. Empty is off."""
    pretrain_epochs: int = 0
    """Epochs (of `train.steps_per_epoch`) of masked volume reconstruction before training, on the
    images of training and unlabelled cases; 0 is off. Encoder and decoder are kept, as in Models
    Genesis (Zhou et al. 2019); masks as in He et al. 2022 and Tang et al. 2022."""
    mask_share: float = 0.6
    """Share of the cubes of a patch that pretraining hides. He et al. 2022 hide 0.75 of an
    image."""
    mask_side: int = 8
    """Voxels along a side of these cubes."""
    consistency_weight: float = 0.0
    """Weight, in the loss, of the squared difference between the probabilities of the network and
    of the averaged network on unlabelled patches, which both see with noise of their own (mean
    teacher, Tarvainen & Valpola 2017); 0 is off. Needs `ema_decay`: the averaged network is the
    teacher. Its passes are not compiled."""
    consistency_rampup_epochs: int = 0
    """Epochs over which that weight rises, as exp(-5 (1 - t)^2) (Laine & Aila 2017). 0 is off: the
    weight is there from the start."""
    consistency_noise: float = 0.1
    """Strength of the noise, brightness and contrast in which the two views differ, in standard
    deviations of the z-scored channel."""

    @property
    def from_images(self) -> bool:
        """Whether a run learns from cases without a segmentation."""
        return bool(self.consistency_weight or self.pretrain_epochs)

    def __post_init__(self) -> None:
        require(
            0 < self.training_share <= 1,
            "learning.training_share",
            self.training_share,
            "must lie in (0, 1]",
        )
        require(
            0 <= self.ema_decay < 1,
            "learning.ema_decay",
            self.ema_decay,
            "must lie in [0 (off), 1)",
        )
        require(
            self.hard_case_factor >= 1,
            "learning.hard_case_factor",
            self.hard_case_factor,
            "must be 1 (off) or more",
        )
        require(
            self.pretrain_epochs >= 0,
            "learning.pretrain_epochs",
            self.pretrain_epochs,
            "must be 0 (off) or more",
        )
        require(
            not (self.pretrain_epochs and self.initial_weights),
            "learning.pretrain_epochs",
            self.pretrain_epochs,
            "starts from nothing; leave learning.initial_weights empty, or this at 0",
        )
        require(
            0 < self.mask_share < 1,
            "learning.mask_share",
            self.mask_share,
            "must lie between 0 and 1",
        )
        require(
            self.mask_side >= 1, "learning.mask_side", self.mask_side, "must be 1 voxel or more"
        )
        require(
            self.consistency_weight >= 0,
            "learning.consistency_weight",
            self.consistency_weight,
            "must be 0 (off) or more",
        )
        require(
            not self.consistency_weight or self.ema_decay,
            "learning.consistency_weight",
            self.consistency_weight,
            "the teacher is the averaged network: set learning.ema_decay too, for example 0.99",
        )
        require_each(
            self,
            "learning",
            ("consistency_rampup_epochs", "consistency_noise"),
            lambda value: value >= 0,
            "must be 0 or more",
        )
