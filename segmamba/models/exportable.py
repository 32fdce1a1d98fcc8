"""A network for files of other runtimes: the same function in operators that any of them has.

Our layers choose kernels and memory formats that only this package has. While a network is traced
from a copy that this module makes, torch's own convolutions and norms stand in their place, and one
operator in that of each selective scan.

Legend: B batch, C channels, K output channels, D, H, W the spatial axes.
"""

import copy
import types
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models.layers import Conv, InstanceNorm, PointwiseConv, TransposedConv
from segmamba.models.outputs import Channels, probabilities
from segmamba.models.segmamba import IN_CHANNELS

Form = Literal["plain", "planes", "any size"]
REASON = 200
"""Characters of torch's own words in an error."""
SCAN = "exported"
"""The entry of `segmamba.models.scan.IMPLEMENTATIONS` that an exported graph holds."""


def _normed(norm: InstanceNorm, x: Tensor) -> Tensor:
    return F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)


PLAIN: dict[type[nn.Module], Callable[..., Tensor]] = {
    Conv: nn.Conv3d.forward,
    PointwiseConv: nn.Conv3d.forward,
    TransposedConv: nn.ConvTranspose3d.forward,
    InstanceNorm: _normed,
}
"""What computes a layer of ours in an exported graph."""
ONE_SIZE = {"umamba_enc": "has layers with a weight for every voxel of one size"}
"""Networks that are not exported for any size, and why."""


class Exportable(nn.Module):
    """A network that is traced for a file: an image to probabilities and logits.

    Args:
        network: The network, which is copied.
        outputs: Its K channels.
        form: How 3-D convolutions are written. plain: as they are. planes: as 2-D ones, for a
            runtime whose 2-D ones are faster and an image of one size. any size: so that a graph
            for any size has simple sizes.
    """

    def __init__(self, network: nn.Module, outputs: Channels, *, form: Form = "plain") -> None:
        super().__init__()
        self.network, self.outputs = copy.deepcopy(network).eval().requires_grad_(False), outputs
        for module in self.network.modules():
            if computed := _forward_of(module, form):
                module.forward = types.MethodType(computed, module)
            if hasattr(module, "implementation"):  # a scan
                module.implementation = SCAN  # type: ignore[assignment]  # its model.scan

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a batch of windows.

        Args:
            image: float32 (B, 4, D, H, W), z-scored, in the order of MODALITIES.

        Returns:
            Probabilities and logits, float32 (B, K, D, H, W).
        """
        logits = self.network(image)
        return probabilities(logits, self.outputs), logits


def _forward_of(module: nn.Module, form: Form) -> Callable[..., Tensor] | None:
    """What computes a layer in an exported graph; None where it is the layer itself."""
    if isinstance(module, nn.Conv3d):
        if form == "planes" and _keeps_sides(module):
            return convolved_by_planes
        if form == "any size" and _halves(module):
            return convolved_to_half
    return PLAIN.get(type(module))


def _keeps_sides(conv: nn.Conv3d) -> bool:
    """Whether a convolution is one of an odd cube that `convolved_by_planes` computes."""
    side, gap = conv.kernel_size[0], conv.dilation[0]
    return (
        side > 1
        and side % 2 == 1
        and set(conv.kernel_size) == {side}
        and set(conv.dilation) == {gap}
        and set(conv.stride) == {1}
        and conv.padding == (side // 2 * gap,) * 3
        and conv.padding_mode == "zeros"
        and conv.groups == 1
    )


def convolved_by_planes(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A 3-D convolution that keeps the sides, as a sum of 2-D ones.

    D and H become the rows of one plane, with empty rows between the slices. A kernel's taps along
    D are then rows that lie a slice apart, those along W columns; there is one 2-D convolution for
    each tap along H. In onnxruntime it takes 0.5 to 0.8 of the time of the 3-D one.

    Args:
        conv: The convolution; `_keeps_sides`.
        x: (B, C, D, H, W).

    Returns:
        (B, C', D, H, W).
    """
    (depth, height, width), half = x.shape[2:], conv.padding[1]
    assert isinstance(half, int), "the padding is in numbers"
    rows = height + half  # of a slice and what separates it from the next
    plane = F.pad(x, (0, 0, 0, half)).reshape(*x.shape[:2], depth * rows, width)
    gap, reach = conv.dilation[1], half * rows
    total = None
    for tap in range(conv.kernel_size[1]):
        shift = tap * gap - half
        part = F.conv2d(
            F.pad(plane, (half, half, reach - shift, reach + shift)),
            conv.weight[:, :, :, tap],
            conv.bias if tap == 0 else None,
            dilation=(gap * rows, gap),
        )
        total = part if total is None else total + part
    assert isinstance(total, Tensor), "a kernel has a tap"
    return total.reshape(x.shape[0], conv.out_channels, depth, rows, width)[:, :, :, :height]


def _halves(conv: nn.Conv3d) -> bool:
    """Whether a convolution is one that `convolved_to_half` computes."""
    return (
        2 in conv.stride
        and set(conv.stride) <= {1, 2}
        and all(side % 2 for side in conv.kernel_size)
        and conv.padding == tuple(side // 2 for side in conv.kernel_size)
        and set(conv.dilation) == {1}
    )


def convolved_to_half(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution of stride 2 and an odd kernel on even sides, padded as far as it reads.

    It reads one voxel less behind a side than the convolution is padded. So written, half of 16 n
    is 8 n by the rules of symbols; else it would be (16 n - 1) // 2 + 1, and so on at each level.

    Args:
        conv: The convolution; `_halves`.
        x: (B, C, D, H, W); the sides that are halved are even.

    Returns:
        (B, C', D', H', W').
    """
    margins = []
    for side, stride in zip(conv.kernel_size, conv.stride, strict=True):
        margins.append((side // 2, side // 2 - (stride - 1)))
    padding = [margin for pair in reversed(margins) for margin in pair]
    return F.conv3d(F.pad(x, padding), conv.weight, conv.bias, conv.stride, groups=conv.groups)


def traced(network: Exportable, image: Tensor) -> torch.export.ExportedProgram:
    """Trace a network for images of one shape.

    Args:
        network: The network.
        image: float32 (B, 4, D, H, W), of that shape.

    Returns:
        The graph.

    Raises:
        UserError: The network branches on what its tensors hold.
    """
    try:
        with torch.no_grad():
            return torch.export.export(network, (image,), strict=False)
    except (ValueError, RuntimeError) as error:  # torch's errors of tracing are both
        raise UserError(f"this network cannot be exported ({str(error)[:REASON]})") from error


def check_any_size(config: ModelConfig) -> None:
    """Refuse a network that is not exported for any size.

    Args:
        config: The `model` section of its Config.

    Raises:
        UserError: The message says why.
    """
    reason = ""
    if config.scan_path != "raster":
        reason = f"model.scan_path = {config.scan_path!r} is an order of the voxels of one size"
    elif config.name in ONE_SIZE:
        reason = f"model.name = {config.name!r} {ONE_SIZE[config.name]}"
    if reason:
        raise UserError(f"--dynamic: {reason}; leave out --dynamic")


def traced_for_any_size(
    network: Exportable, multiples: tuple[int, int, int]
) -> torch.export.ExportedProgram:
    """Trace a network for any batch and any sides.

    Args:
        network: The network.
        multiples: The numbers of which D, H and W are multiples.

    Returns:
        The graph.

    Raises:
        UserError: The network computes with the sides what a graph for any sides cannot.
    """
    units = [torch.export.Dim(f"{axis}_units", min=2) for axis in "xyz"]
    sides = {2 + place: m * u for place, (m, u) in enumerate(zip(multiples, units, strict=True))}
    # sides that are all different, and no batch of one: what is equal here need not be elsewhere
    image = torch.zeros(2, IN_CHANNELS, *((3 + place) * m for place, m in enumerate(multiples)))
    try:
        with torch.no_grad():
            return torch.export.export(
                network,
                (image,),
                dynamic_shapes=({0: torch.export.Dim("batch"), **sides},),
                strict=False,
            )
    except (ValueError, RuntimeError) as error:  # torch's errors of constraints are both
        raise UserError(
            f"this network cannot be exported for any size ({str(error)[:REASON]}); leave out "
            "--dynamic"
        ) from error
