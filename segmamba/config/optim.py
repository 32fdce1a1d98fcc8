"""How the loss is minimised."""

from dataclasses import dataclass

from segmamba.config.rules import require, require_each


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning rate: a linear warm-up and then a cosine."""

    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; never on A_log, D, norms and biases. 0 is off."""
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
        require(
            all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            self.betas,
            "both must lie in [0, 1)",
        )
