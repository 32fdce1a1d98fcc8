"""Networks for inference alone: folded batch norms, weights already in half precision.

Batch norms are folded into the convolutions before them. On a CPU the convolution takes the norm's
offset as its bias. On a GPU it keeps none: our narrow kernels add the offset and the ReLU as they
write, and for cuDNN torch would add a bias in a pass of its own anyway.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segmamba.models.blocks import ConvBlock, Downsample
from segmamba.models.layers import Shift
from segmamba.models.umamba import FullPrecisionMamba

MULTIPLYING = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


def folded(model: nn.Module, device_type: str) -> nn.Module:
    """Copy a network for inference, without the batch norms of our conv blocks.

    A batch norm of running mean m, variance v, weight g and bias b turns a convolution by w into
    one by w g / sqrt(v + eps) and the offset b - m g / sqrt(v + eps).

    Args:
        model: The network; it stays as it is.
        device_type: "cpu" or "cuda", where the copy will run.

    Returns:
        The copy in eval mode, its weights fixed as they are now.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.norm1 = _fold(module.conv1, module.norm1, device_type)
            module.norm2 = _fold(module.conv2, module.norm2, device_type)
        elif isinstance(module, Downsample):
            convolution = module[0]
            assert isinstance(convolution, nn.Conv3d), "a Downsample begins with one"
            module[1] = _fold(convolution, module[1], device_type)
    return model


def in_half(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a network whose convolutions and matrix products have weights in half precision.

    It is meant for passes under autocast to `dtype`: every pass would cast the weights again, and a
    compiled one lose their channels-last order on the way. Biases stay: the scan adds its own in
    fp32. So do the layers that compute in fp32 whatever autocast says.

    Args:
        model: The network; it stays as it is.
        dtype: float16 or bfloat16.

    Returns:
        The copy.
    """
    model = copy.deepcopy(model)
    exact = {
        part
        for layer in model.modules()
        if isinstance(layer, FullPrecisionMamba)
        for part in layer.modules()
    }
    for module in model.modules():
        if isinstance(module, MULTIPLYING) and module not in exact:
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    return model


def _fold(convolution: nn.Conv3d, norm: nn.Module, device_type: str) -> nn.Module:
    """Change the convolution so that it does the norm's part, and return what is left of the norm.

    Instance norms depend on the input and stay.
    """
    if not isinstance(norm, nn.BatchNorm3d):
        return norm
    assert norm.running_mean is not None and norm.running_var is not None, "our norms track both"
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    with torch.no_grad():
        weight, offset = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    if device_type == "cuda":
        return Shift(offset.detach())
    convolution.bias = nn.Parameter(offset, requires_grad=False)
    return nn.Identity()
