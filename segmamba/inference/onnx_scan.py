"""The selective scan as a function of an ONNX file: a Scan operator over blocks of tokens.

A pass of the operator takes BLOCK_TOKENS tokens. It computes their decays and inputs together, then
their states one after the other. A block stays in the processor's cache, and decays are only ever
multiplied, as in our own scans.

Legend: b batch, l tokens, c channels, n states, k blocks, t tokens of a block.
"""

from typing import Any

import onnx
from onnx import FunctionProto, GraphProto, NodeProto, TensorProto
from onnx.helper import make_function, make_graph, make_node, make_opsetid, make_tensor_value_info
from onnxscript.values import Op, Opset

DOMAIN, NAME, VERSION = "segmamba", "SelectiveScan", 1
OPSET = 18
BLOCK_TOKENS = 16
"""Of 8, 16, 32 and 64 the fastest in onnxruntime: at 16384 tokens of 256 channels and 16 states 165
ms on one core, where scan_portable takes 250 and scan_native 60."""
INPUTS = ("x", "delta", "A", "B", "C", "D", "bias")
"""As `segmamba.models.scan_export.exported_scan` takes them."""
SCANNED = ("step", "scaled", "B", "C")
"""What a pass reads a block of."""


def scan_call(*inputs: Any) -> Any:
    """Write a call of the function into the graph that torch.onnx.export traces.

    Args:
        *inputs: Values of the graph, one for each of INPUTS.

    Returns:
        The value of y (b, l, c).
    """
    return Op(Opset(DOMAIN, VERSION), NAME, _schema())(*inputs)


def scan_function() -> FunctionProto:
    """The function that `scan_call` calls; the file must hold it."""
    nodes = _Nodes()
    nodes.add("Add", "delta", "bias", to="raw")
    nodes.add("Softplus", "raw", to="step")
    nodes.add("Mul", "step", "x", to="scaled")
    nodes.add("Transpose", "A", to="At", perm=[1, 0])
    for name, value in (("block", BLOCK_TOKENS), ("one", 1), ("two", 2), ("three", 3), ("none", 0)):
        nodes.add("Constant", to=name, value_ints=[value])
    nodes.add("Constant", to="rest", value_ints=[-1])
    nodes.add("Shape", "x", to="batch", start=0, end=1)
    nodes.add("Shape", "x", to="length", start=1, end=2)
    # a token that pads the last block has step 0: decay 1, input 0
    nodes.add("Sub", "none", "length", to="minus_length")
    nodes.add("Mod", "minus_length", "block", to="missing")
    nodes.add("Concat", "none", "none", "none", "none", "missing", "none", to="padding", axis=0)
    nodes.add("Concat", "batch", "rest", "block", to="blocks", axis=0)
    for name in SCANNED:
        nodes.add("Pad", name, "padding", to=f"{name}_padded")
        nodes.add("Shape", name, to=f"{name}_width", start=2)
        nodes.add("Concat", "blocks", f"{name}_width", to=f"{name}_shape", axis=0)
        nodes.add("Reshape", f"{name}_padded", f"{name}_shape", to=f"{name}_cut")
        nodes.add("Transpose", f"{name}_cut", to=f"{name}_blocks", perm=[1, 0, 2, 3])
    nodes.add("Shape", "At", to="states_shape")
    nodes.add("Concat", "batch", "one", "states_shape", to="state_shape", axis=0)
    nodes.add("ConstantOfShape", "state_shape", to="first")  # zeros, float
    nodes.add(
        "Scan",
        "first",
        *(f"{name}_blocks" for name in SCANNED),
        to=("last", "scanned"),
        body=_block(),
        num_scan_inputs=len(SCANNED),
    )
    nodes.add("Transpose", "scanned", to="in_order", perm=[1, 0, 2, 3])
    nodes.add("Concat", "batch", "rest", "scaled_width", to="padded_shape", axis=0)
    nodes.add("Reshape", "in_order", "padded_shape", to="padded_y")
    nodes.add("Slice", "padded_y", "none", "length", "one", to="of_states")
    nodes.add("Mul", "x", "D", to="of_x")
    nodes.add("Add", "of_states", "of_x", to="y")
    return make_function(DOMAIN, NAME, INPUTS, ["y"], nodes.made, [make_opsetid("", OPSET)])


def _block() -> GraphProto:
    """One pass: the state (b, 1, n, c) and a block to the next state and y (b, t, c)."""
    nodes, times = _Nodes(), range(BLOCK_TOKENS)
    nodes.add("Unsqueeze", "step_t", "two", to="step_4d")  # (b, t, 1, c)
    nodes.add("Mul", "step_4d", "At", to="exponent")  # (b, t, n, c)
    nodes.add("Exp", "exponent", to="decay")
    nodes.add("Unsqueeze", "scaled_t", "two", to="scaled_4d")
    nodes.add("Unsqueeze", "B_t", "three", to="B_4d")
    nodes.add("Mul", "scaled_4d", "B_4d", to="input")
    for name in ("decay", "input"):
        parts = tuple(f"{name}_{t}" for t in times)
        nodes.add("Split", name, to=parts, axis=1, num_outputs=BLOCK_TOKENS)
    before = "state"
    for t in times:
        nodes.add("Mul", f"decay_{t}", before, to=f"kept_{t}")
        nodes.add("Add", f"kept_{t}", f"input_{t}", to=f"state_{t}")
        before = f"state_{t}"
    nodes.add("Concat", *(f"state_{t}" for t in times), to="states", axis=1)
    nodes.add("Unsqueeze", "C_t", "two", to="C_4d")
    nodes.add("MatMul", "C_4d", "states", to="y_4d")  # (b, t, 1, n) by (b, t, n, c)
    nodes.add("Squeeze", "y_4d", "two", to="y_t")
    nodes.add("Identity", before, to="next")
    inputs = [_float("state", 4), *(_float(f"{name}_t", 3) for name in SCANNED)]
    return make_graph(nodes.made, "block", inputs, [_float("next", 4), _float("y_t", 3)])


class _Nodes:
    """Nodes in the order in which they are added."""

    def __init__(self) -> None:
        self.made: list[NodeProto] = []

    def add(self, kind: str, *inputs: str, to: str | tuple[str, ...], **attributes: Any) -> None:
        """Add an operator that writes the values `to`."""
        outputs = [to] if isinstance(to, str) else list(to)
        self.made.append(make_node(kind, inputs, outputs, **attributes))


def _float(name: str, axes: int) -> onnx.ValueInfoProto:
    """A tensor of so many axes, as onnxruntime must know of what a Scan gives."""
    return make_tensor_value_info(name, TensorProto.FLOAT, [None] * axes)


def _schema() -> onnx.defs.OpSchema:
    parameter = onnx.defs.OpSchema.FormalParameter
    return onnx.defs.OpSchema(
        NAME,
        DOMAIN,
        VERSION,
        inputs=[parameter(name, "T") for name in INPUTS],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "What the scan computes in.")],
    )
