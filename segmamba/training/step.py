"""What one forward pass of training computes, in a form that torch.compile takes as one graph, and whether compiling pays.

Legend: B patches, C = 4 modalities, (D, H, W) the patch.
"""

import importlib.util

import torch

from segmamba.models.outputs import output_channels
from segmamba.training.losses import no_patch_losses, patch_losses, training_loss

# Measured on one H100, paper network: compiling takes 60 to 95 s and a forward and backward pass then 24 ms instead of about 50.
PASSES_THAT_PAY = 4000

# As mode="reduce-overhead", and elementwise work is computed again for each reader instead of stored: the masked gradients in front of a
# batch norm, which the compiler would write in fp32 and read twice.
COMPILE_OPTIONS = {
    "triton.cudagraphs": True,
    "realize_reads_threshold": 16,
    "realize_opcount_threshold": 200,
}


class ForwardLoss(torch.nn.Module):
    """The network and its loss as one module: (image (B, C, D, H, W), label (B, D, H, W)) -> (scalar fp32 loss, (B,) loss of each patch).

    The second is for hard cases alone, without gradient, and 0 where they are off.
    """

    def __init__(self, model, config):
        super().__init__()
        self.model, self.channels, self.loss_config = (
            model,
            output_channels(config.model),
            config.loss,
        )
        self.each = patch_losses if config.learning.hard_case_factor > 1 else no_patch_losses

    def forward(self, image, label):
        outputs = self.model(image)
        return training_loss(outputs, label, self.channels, self.loss_config), self.each(
            outputs, label, self.channels
        )


def compile_decision(config, device):
    """(whether to compile, the reason in words). `config` is a Config."""
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
            f"eager: {passes} forward passes are too few to earn the compilation back ({PASSES_THAT_PAY})",
        )
    return True, f"compiled: {passes} forward passes"


def forward_loss(model, config, device):
    """`ForwardLoss`, perhaps compiled."""
    return compiled(ForwardLoss(model, config), config, device)


def compiled(module, config, device):
    """A module, compiled with CUDA graphs where `compile_decision` says so."""
    return (
        torch.compile(module, options=COMPILE_OPTIONS, fullgraph=True)
        if compile_decision(config, device)[0]
        else module
    )
