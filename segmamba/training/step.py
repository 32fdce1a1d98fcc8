"""What one forward pass of training computes, and whether compiling it pays.

The network and its loss are one module, which torch.compile takes as one graph.

Legend: B patches, C = 4 modalities, (D, H, W) the patch.
"""

import importlib.util
from collections.abc import Callable

import torch

from segmamba.config import Config
from segmamba.models.outputs import output_channels
from segmamba.training.losses import no_patch_losses, patch_losses, training_loss

LossFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(image (B, C, D, H, W), label (B, D, H, W)) to (loss (), loss of each patch (B,)), fp32."""

PASSES_THAT_PAY = 4000
"""Forward passes from which compiling pays. Measured on one H100 with the paper's network:
compiling takes 60 to 95 s, and a forward and backward pass then takes 24 ms instead of about 50."""

COMPILE_OPTIONS: dict[str, str | int | bool | Callable] = {
    "triton.cudagraphs": True,
    "realize_reads_threshold": 16,
    "realize_opcount_threshold": 200,
}
"""As mode="reduce-overhead", and elementwise work is computed again for each reader instead of
stored: else the compiler would write the masked gradients in front of a batch norm in fp32 and read
them twice."""


class ForwardLoss(torch.nn.Module):
    """The network and its loss as one module, called as LossFunction.

    The losses of single patches are for hard cases alone: without gradient, and 0 where hard cases
    are off.
    """

    def __init__(self, model: torch.nn.Module, config: Config) -> None:
        super().__init__()
        self.model = model
        self.channels = output_channels(config.model)
        self.loss_config = config.loss
        self.patch_losses = (
            patch_losses if config.learning.hard_case_factor > 1 else no_patch_losses
        )

    def forward(
        self, image: torch.Tensor, label: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss () of a batch and the loss of each of its patches (B,)."""
        outputs = self.model(image)
        return (
            training_loss(outputs, label, self.channels, self.loss_config),
            self.patch_losses(outputs, label, self.channels),
        )


def compile_decision(config: Config, device: torch.device) -> tuple[bool, str]:
    """Decide whether a run's network is compiled.

    Args:
        config: Its `train.compile` decides, or where that is "auto", the length of the run.
        device: Where the run trains.

    Returns:
        Whether to compile, and the reason in words.
    """
    passes = config.train.epochs * config.train.steps_per_epoch * config.train.accumulation
    if config.train.compile != "auto":
        return config.train.compile == "always", f"train.compile = {config.train.compile}"
    if device.type != "cuda":
        return False, f"eager: compiling is for GPUs, this is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return False, "eager: triton is not installed"
    if passes < PASSES_THAT_PAY:
        return (
            False,
            f"eager: {passes} forward passes are too few to earn the compilation back "
            f"({PASSES_THAT_PAY})",
        )
    return True, f"compiled: {passes} forward passes"


def forward_loss(model: torch.nn.Module, config: Config, device: torch.device) -> LossFunction:
    """Return a network and its loss as one function, compiled where `compile_decision` says so."""
    return compiled(ForwardLoss(model, config), config, device)


def compiled(module: torch.nn.Module, config: Config, device: torch.device) -> Callable:
    """Return a module, compiled with CUDA graphs where `compile_decision` says so."""
    if not compile_decision(config, device)[0]:
        return module
    return torch.compile(module, options=COMPILE_OPTIONS, fullgraph=True)
