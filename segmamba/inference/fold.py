"""Networks for inference alone: batch norms folded into the convolutions before them, weights already in half precision.

On a CPU the convolution takes the norm's offset as its bias. On a GPU it keeps none: our narrow kernels add the offset and the ReLU as they
write, and for cuDNN torch would add a bias in a pass of its own anyway.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from segmamba.models.blocks import ConvBlock, Downsample, Shift

MULTIPLYING = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


def folded(model, device_type):
    """A copy of the network in eval mode, its weights fixed as they are now, without the batch norms of our conv blocks; for "cpu" or "cuda"."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.norm1 = _fold(module.conv1, module.norm1, device_type)
            module.norm2 = _fold(module.conv2, module.norm2, device_type)
        elif isinstance(module, Downsample):
            module[1] = _fold(module[0], module[1], device_type)
    return model


def in_half(model, dtype):
    """A copy whose convolutions and matrix products have their weights in `dtype`, for passes under autocast to it: every pass would cast them
    again, and a compiled one lose their channels-last order on the way. Biases stay: the scan adds its own in fp32."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, MULTIPLYING):
            module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    return model


def _fold(convolution, norm, device_type):
    """Change the convolution so that it does the norm's part, and return what is left of the norm. Instance norms depend on the input and stay."""
    if not isinstance(norm, nn.BatchNorm3d):
        return norm
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    with torch.no_grad():
        weight, offset = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    if device_type == "cuda":
        return Shift(offset.detach())
    convolution.bias = nn.Parameter(offset, requires_grad=False)
    return nn.Identity()
