"""What stands in exported graphs computes what our layers and scans compute."""

import pytest
import torch
from torch import nn

from segmamba.errors import UserError
from segmamba.models.exportable import (
    Exportable,
    convolved_by_planes,
    convolved_to_half,
    traced,
)
from segmamba.models.layers import Conv
from segmamba.models.outputs import output_channels
from segmamba.models.scan import sequential_scan
from segmamba.models.scan_export import CHUNK_TOKENS, expanded, exported_scan
from tests.models.test_networks import SMALL, seeded, volume


def scan_inputs(tokens, batch=2, channels=6, states=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    x, delta = draw(batch, tokens, channels), draw(batch, tokens, channels)
    B, C = draw(batch, tokens, states), draw(batch, tokens, states)
    return x, delta, -draw(channels, states).exp(), B, C, draw(channels), draw(channels)


@pytest.mark.parametrize("tokens", [1, CHUNK_TOKENS - 1, CHUNK_TOKENS, CHUNK_TOKENS + 1, 300])
def test_the_scan_in_plain_operators_is_the_recurrence(tokens):
    inputs = scan_inputs(tokens)
    expected = sequential_scan(*inputs)
    assert torch.allclose(expanded(*inputs), expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(exported_scan(*inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 100])
def test_the_scan_of_an_onnx_file_is_the_recurrence(tokens):
    """Steps of 10 and more underflow to decays of 0, as they should."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto
    from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

    from segmamba.inference.onnx_scan import DOMAIN, INPUTS, NAME, OPSET, scan_function

    inputs = list(scan_inputs(tokens, dtype=torch.float32))
    inputs[1] = inputs[1] * 10
    values = [
        make_tensor_value_info(name, TensorProto.FLOAT, [None] * tensor.ndim)
        for name, tensor in zip((*INPUTS, "y"), (*inputs, inputs[0]), strict=True)
    ]
    graph = make_graph(
        [make_node(NAME, INPUTS, ["y"], domain=DOMAIN)], "g", values[:-1], values[-1:]
    )
    domains = [make_opsetid("", OPSET), make_opsetid(DOMAIN, 1)]
    model = make_model(graph, functions=[scan_function()], opset_imports=domains, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, dict(zip(INPUTS, (t.numpy() for t in inputs), strict=True)))
    assert torch.allclose(torch.from_numpy(y), sequential_scan(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "dilation", "bias"), [(3, 1, True), (3, 1, False), (5, 1, True), (3, 2, True)]
)
@pytest.mark.parametrize("sides", [(8, 8, 8), (4, 6, 10), (2, 3, 1)])
def test_a_convolution_by_planes_is_the_convolution(kernel, dilation, bias, sides):
    torch.manual_seed(0)
    padding = kernel // 2 * dilation
    conv = nn.Conv3d(3, 5, kernel, padding=padding, dilation=dilation, bias=bias)
    x = torch.randn(2, 3, *sides)
    with torch.no_grad():
        assert torch.allclose(convolved_by_planes(conv, x), conv(x), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride"), [(3, 2), (7, 2), (1, 2), ((3, 3, 1), (2, 2, 1)), (3, (2, 1, 2))]
)
def test_a_convolution_to_half_the_sides_is_the_convolution(kernel, stride):
    torch.manual_seed(0)
    padding = kernel // 2 if isinstance(kernel, int) else tuple(side // 2 for side in kernel)
    conv = nn.Conv3d(3, 5, kernel, stride=stride, padding=padding)
    x = torch.randn(2, 3, 8, 6, 10)
    with torch.no_grad():
        assert torch.allclose(convolved_to_half(conv, x), conv(x), atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "planes", "any size"])
def test_a_network_in_its_exported_form_computes_what_it_computed(form):
    """Also outside of tracing, and without a change to the network itself."""
    network = seeded(norm="instance", attention_gates=True, upsample="interpolate").eval()
    x, outputs = volume(32, 16, 16, batch=2), output_channels(SMALL)
    exportable = Exportable(network, outputs, form=form)
    with torch.no_grad():
        probabilities, logits = exportable(x)
        expected = network(x)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.allclose(probabilities, expected.softmax(1), atol=1e-4)
    assert all("forward" not in vars(m) for m in network.modules() if isinstance(m, Conv))


class Branching(nn.Module):
    """A network whose graph depends on what a voxel holds."""

    def forward(self, x):
        return torch.cat([x[:, :1]] * 4, 1) if x[0, 0, 0, 0, 0] > 0 else x


def test_a_network_that_is_no_one_graph_is_refused_in_one_line():
    network = Exportable(Branching(), output_channels(SMALL))
    with pytest.raises(UserError, match="this network cannot be exported"):
        traced(network, volume(16, 16, 16))
