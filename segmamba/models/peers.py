"""The field's networks under the interface of ours.

They are MONAI's DynUNet, SegResNet and SwinUNETR, and nnU-Net's plain and residual-encoder U-Nets,
built as their authors build them for a patch of 128x128x64, with `base_channels` for their first
width. MONAI, einops and dynamic-network-architectures are imported when a network needs them: pip
install 'segmamba[peers]'.
"""

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models.outputs import output_channels
from segmamba.models.segmamba import IN_CHANNELS, check_sides

MAX_CHANNELS = 320
"""nnU-Net's cap for 3-D networks."""
STRIDES: tuple[int | tuple[int, int, int], ...] = (1, 2, 2, 2, 2, (2, 2, 1))
"""nnU-Net's plan for 128x128x64: it halves an axis while 4 voxels remain."""


class Peer(nn.Module):
    """Another's network: (B, 4, D, H, W) to logits (B, K, D, H, W).

    Args:
        network: The network as its authors build it.
        side_multiples: The numbers of voxels of which D, H and W must be multiples.
    """

    def __init__(self, network: nn.Module, side_multiples: tuple[int, int, int]) -> None:
        super().__init__()
        self.network, self.side_multiples = network, side_multiples

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits.

        Args:
            x: Float (B, 4, D, H, W), z-scored, in the order of MODALITIES.

        Returns:
            Logits (B, K, D, H, W).

        Raises:
            UserError: A side is no multiple of `side_multiples`.
        """
        check_sides(x.shape[2:], self.side_multiples)
        return self.network(x)


def dynunet(config: ModelConfig) -> Peer:
    """MONAI's nnU-Net-like network, with residual blocks off."""
    strides = [(s,) * 3 if isinstance(s, int) else s for s in STRIDES]
    network = _class("monai.networks.nets", "DynUNet")(
        spatial_dims=3,
        in_channels=IN_CHANNELS,
        out_channels=len(output_channels(config)),
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=_widths(config),
        norm_name=("INSTANCE", {"affine": True}),
    )
    return Peer(network, (32, 32, 16))


def segresnet(config: ModelConfig) -> Peer:
    """MONAI's encoder-heavy residual network, without its autoencoder branch.

    The network won BraTS 2018 (Myronenko 2018).
    """
    network = _class("monai.networks.nets", "SegResNet")(
        spatial_dims=3,
        in_channels=IN_CHANNELS,
        out_channels=len(output_channels(config)),
        init_filters=config.base_channels,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    return Peer(network, (8, 8, 8))


def swinunetr(config: ModelConfig) -> Peer:
    """Swin UNETR (Hatamizadeh et al. 2022), whose forward pass needs einops.

    The feature size is 48 at 32 base channels, and always a multiple of 12.
    """
    _class("einops", "rearrange")
    network = _class("monai.networks.nets", "SwinUNETR")(
        in_channels=IN_CHANNELS,
        out_channels=len(output_channels(config)),
        use_checkpoint=False,
        feature_size=max(round(config.base_channels * 1.5 / 12), 1) * 12,
    )
    return Peer(network, (32, 32, 32))


def nnunet_plain(config: ModelConfig) -> Peer:
    """nnU-Net's U-Net: two convolutions a stage."""
    build = _class("dynamic_network_architectures.architectures.unet", "PlainConvUNet")
    stages = len(STRIDES)
    network = build(
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
        **_nnunet_arguments(config),
    )
    return Peer(network, (32, 32, 16))


def nnunet_resenc(config: ModelConfig) -> Peer:
    """nnU-Net's residual-encoder U-Net, preset M."""
    build = _class("dynamic_network_architectures.architectures.unet", "ResidualEncoderUNet")
    network = build(
        n_blocks_per_stage=[1, 3, 4, 6, 6, 6],
        n_conv_per_stage_decoder=[1] * (len(STRIDES) - 1),
        **_nnunet_arguments(config),
    )
    return Peer(network, (32, 32, 16))


PEERS: dict[str, Callable[[ModelConfig], Peer]] = {
    "dynunet": dynunet,
    "segresnet": segresnet,
    "swinunetr": swinunetr,
    "nnunet_plain": nnunet_plain,
    "nnunet_resenc": nnunet_resenc,
}
"""What builds each network, by `model.name`."""
NOT_ONE_GRAPH = ("swinunetr",)
"""Networks that branch on what their tensors hold, so that torch.compile cannot take them whole."""


def _nnunet_arguments(config: ModelConfig) -> dict[str, object]:
    return {
        "input_channels": IN_CHANNELS,
        "num_classes": len(output_channels(config)),
        "n_stages": len(STRIDES),
        "features_per_stage": _widths(config),
        "conv_op": nn.Conv3d,
        "kernel_sizes": 3,
        "strides": STRIDES,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }


def _widths(config: ModelConfig) -> list[int]:
    return [min(config.base_channels * 2**stage, MAX_CHANNELS) for stage in range(len(STRIDES))]


def _class(module: str, name: str) -> Any:
    """A class of an optional package; a UserError says what to install where it is missing."""
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise UserError(
            f"model.name: {name} needs {package}, which cannot be imported ({error}); "
            f"pip install {package}"
        ) from error
