"""What the field's Mamba networks share: the input's axes and sides, and the norm of their blocks.

Their parameters have the names of the authors' networks, so that the authors' weights load as they
are. The volume is turned into the order of `model.scan_axes` on the way in and back on the way out:
weights that were trained on arrays (z, y, x) mean the same there.

Legend: B batch, C channels, K output channels, D, H, W the axes of a volume.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models.layers import Conv, InstanceNorm
from segmamba.models.segmamba import check_sides


class AuthorsNetwork(nn.Module, ABC):
    """A network of other authors under our interface: (B, 4, D, H, W) to logits (B, K, D, H, W).

    Args:
        config: `scan_axes`.
        strides: What the deepest level's resolution is divided by, along the turned axes.
    """

    side_multiples: tuple[int, int, int]
    """D, H and W must be multiples of these."""

    def __init__(self, config: ModelConfig, strides: Sequence[int]) -> None:
        super().__init__()
        self._turn = turned_axes(config)
        self._back = tuple(self._turn.index(axis) for axis in range(3))
        x, y, z = (strides[place] for place in self._back)
        self.side_multiples = x, y, z

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Predict logits.

        Args:
            x: Float (B, 4, D, H, W), z-scored, in the order of MODALITIES.

        Returns:
            Logits (B, K, D, H, W). With deep supervision, in training mode, a list of logits, full
            resolution first.

        Raises:
            UserError: The network cannot take these sides.
        """
        check_sides(x.shape[2:], self.side_multiples)
        self._check_more_than_a_voxel(x.shape[2:])
        turned = _permuted(x, self._turn).contiguous(memory_format=torch.channels_last_3d)
        outputs = [_permuted(logits, self._back) for logits in self.predict(turned)]
        return outputs if len(outputs) > 1 else outputs[0]

    @abstractmethod
    def predict(self, x: Tensor) -> list[Tensor]:
        """Predict logits of a turned volume.

        Args:
            x: Float (B, 4, D, H, W), channels last.

        Returns:
            Logits (B, K, D, H, W) and, where they are asked for, coarser ones.
        """

    def _check_more_than_a_voxel(self, sides: Sequence[int]) -> None:
        """Refuse an input whose deepest level is one voxel, which no instance norm can scale."""
        if tuple(sides) == self.side_multiples:
            words = " x ".join(map(str, sides))
            raise UserError(
                f"network input of {words} voxels: one voxel is left at the deepest level, which "
                "its instance norm cannot normalise; take a larger data.patch_size"
            )


def turned_axes(config: ModelConfig) -> tuple[int, ...]:
    """The axes of `model.scan_axes`, slowest first: 0, 1, 2 for D, H, W."""
    return tuple("dhw".index(letter) for letter in config.scan_axes)


def with_fast_layers(module: nn.Module) -> nn.Module:
    """Replace torch's instance norms without parameters and 3x3x3 convolutions, in place, by ours.

    Ours compute the same, with the same parameters.

    Args:
        module: Any module.

    Returns:
        The module.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.InstanceNorm3d and not child.affine:
                setattr(parent, name, InstanceNorm(child.num_features, affine=False))
            elif _is_plain(child):
                setattr(parent, name, _fast(child))
    return module


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv3d]:
    return (
        type(module) is nn.Conv3d
        and module.kernel_size == (3, 3, 3)
        and module.dilation == (1, 1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def _fast(convolution: nn.Conv3d) -> Conv:
    """Ours, with the parameters of torch's; no random number is drawn for others."""
    fast = skip_init(
        Conv,
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        bias=convolution.bias is not None,
    )
    fast.weight, fast.bias = convolution.weight, convolution.bias
    return fast


def _permuted(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """(B, C, D, H, W) with its spatial axes in another order."""
    return x if axes == (0, 1, 2) else x.permute(0, 1, *(2 + axis for axis in axes))
