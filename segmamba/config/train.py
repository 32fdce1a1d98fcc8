"""How long a run trains, in which steps, and what is kept."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Epochs, batches, precision, and when a run validates, keeps weights and stops."""

    epochs: int = 300
    """Epochs of `steps_per_epoch` optimiser steps."""
    steps_per_epoch: int = 250
    """Optimiser steps in an epoch, whatever the number of cases or the patch size (nnU-Net's
    250)."""
    batch_size: int = 2
    """Patches in one forward pass."""
    accumulation: int = 2
    """Forward passes to one optimiser step: the effective batch is batch_size x accumulation."""
    precision: Literal["mixed", "fp32"] = "mixed"
    """mixed: autocast on CUDA, bf16 where the GPU has it, else fp16 with loss scaling; fp32 on a
    CPU. fp32: never autocast."""
    validate_every_epochs: int = 2
    """Epochs between two evaluations of the validation set; the last epoch is always evaluated."""
    early_stop_epochs: int = 50
    """Stop after this many epochs without a better validation Dice; 0 is off. Studies turn it off
    unless it is set, so that arms train alike."""
    keep_every_epochs: int = 10
    """Epochs between two copies of the weights that are kept; 0 is off."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile network and loss into one graph. auto: on a GPU, where the run, or all trials of its
    study together, are long enough to win back the minute that compiling takes, or where the
    compiler's cache has the graph. never is off."""
    test_last: bool = True
    """Test the last epoch's weights too, as test/last_..., beside those that the validation set
    chose. Doubles the test's time; False is off."""
    test_subsets: bool = False
    """Test the chosen weights with every subset of the four modalities too, the others being 0:
    the test takes up to 15 times as long. False is off."""
    deterministic: bool = False
    """Ask torch for deterministic kernels; False is off. The CPU path is deterministic either
    way."""

    def __post_init__(self) -> None:
        require_each(
            self,
            "train",
            ("epochs", "steps_per_epoch", "batch_size", "accumulation", "validate_every_epochs"),
            lambda value: value >= 1,
            "must be 1 or more",
        )
        require_each(
            self,
            "train",
            ("early_stop_epochs", "keep_every_epochs"),
            lambda epochs: epochs >= 0,
            "must be 0 (off) or more",
        )
        require(
            self.early_stop_epochs == 0 or self.early_stop_epochs >= self.validate_every_epochs,
            "train.early_stop_epochs",
            self.early_stop_epochs,
            "must be 0 (off) or at least train.validate_every_epochs = "
            f"{self.validate_every_epochs}",
        )
