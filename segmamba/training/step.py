"""What one forward pass of training computes.

The network and its loss are one module, which torch.compile takes as one graph.

Legend: B patches, C = 4 modalities, (D, H, W) the patch.
"""

from collections.abc import Callable

import torch

from segmamba.config import Config
from segmamba.models.outputs import output_channels
from segmamba.training.losses import no_patch_losses, patch_losses, training_loss

LossFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(image (B, C, D, H, W), label (B, D, H, W)) to (loss (), loss of each patch (B,)), fp32."""


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
