"""How the loss is minimised."""

from dataclasses import dataclass
from typing import Literal

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate: a linear warm-up and then the schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (Loshchilov & Hutter 2019), or sgd with Nesterov's momentum, as nnU-Net trains."""
    lr: float = 1e-4
    """Peak learning rate. nnU-Net's, for sgd, is 1e-2."""
    min_lr: float = 1e-6
    """Learning rate at the end of the schedule."""
    schedule: Literal["cosine", "polynomial"] = "cosine"
    """How the rate falls after the warm-up: by half a cosine, or as (1 - t)^power over the share t
    of the steps, as nnU-Net's."""
    power: float = 0.9
    """Exponent of the polynomial schedule (Chen et al. 2018; nnU-Net's)."""
    weight_decay: float = 1e-2
    """Weight decay, never on A_log, D, norms and biases: decoupled in adamw, added to the gradient
    in sgd (nnU-Net's is 3e-5). 0 is off."""
    momentum: float = 0.99
    """Nesterov's momentum of sgd (nnU-Net's); 0 is off. adamw has `betas`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays (Loshchilov & Hutter 2019); torch's defaults."""
    warmup_epochs: int = 10
    """Epochs of linear warm-up from lr / warmup_epochs to lr; 0 is off."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 is off."""

    def __post_init__(self) -> None:
        require(self.lr > 0, "optim.lr", self.lr, "must be above 0")
        require(
            0 <= self.min_lr <= self.lr,
            "optim.min_lr",
            self.min_lr,
            f"must lie in [0, lr = {self.lr}]",
        )
        require_each(
            self,
            "optim",
            ("weight_decay", "warmup_epochs", "clip_norm"),
            lambda value: value >= 0,
            "must be 0 (off) or more",
        )
        require(self.power > 0, "optim.power", self.power, "must be above 0")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "must lie in [0, 1)")
        require(
            all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            self.betas,
            "both must lie in [0, 1)",
        )
