"""A trained network as an ONNX file, which onnxruntime runs without this package and without torch.

onnx, onnxscript and onnxruntime are imported when a file is written: pip install
'segmamba[export]'.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segmamba.data.label_sets import AUTO
from segmamba.errors import UserError
from segmamba.inference.exported_file import FileFormat, as_text
from segmamba.inference.exported_network import Exporting, Runs
from segmamba.inference.facts import INPUT, KEY, OUTPUTS
from segmamba.models.exportable import REASON, traced, traced_for_any_size

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 1
"""Bytes of an ONNX file: a limit of protobuf."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(
    checkpoint: str | Path, file: str | Path, *, labels: str = AUTO, dynamic: bool = False
) -> Exporting:
    """Write a trained network as an ONNX file, with its facts in it and in FILE.json beside it.

    The file appears when onnxruntime has computed with it what the network computes.

    Args:
        checkpoint: A checkpoint, as `load_member` takes it.
        file: The file to make, which ends in .onnx.
        labels: The label convention of what is written; "auto" is that of the network's classes.
        dynamic: Whether the file takes any batch and any window. One that takes a single window of
            `data.patch_size` is faster.

    Returns:
        What was written.

    Raises:
        UserError: The file exists, a package is missing, the checkpoint is not whole, the network
            cannot be exported so, or the file does not compute what the network computes.
    """
    return ONNX.export(checkpoint, file, labels=labels, dynamic=dynamic)


def _write(exporting: Exporting, file: Path) -> None:
    model = onnx_model(exporting)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, as_text(exporting.facts)
    if (size := model.ByteSize()) > LARGEST:
        raise UserError(
            f"--onnx {file.name}: the network takes {size / 2**30:.1f} GiB, and an ONNX file holds "
            "2; export it with --pt2"
        )
    file.write_bytes(model.SerializeToString())


def onnx_model(exporting: Exporting) -> "onnx.ModelProto":
    """The ONNX model of a network, without its facts.

    Args:
        exporting: The network.

    Returns:
        The model.

    Raises:
        UserError: The network cannot be exported so.
    """
    from segmamba.inference.onnx_scan import OPSET, scan_call, scan_function

    graph = (
        traced_for_any_size(exporting.traceable("any size"), exporting.multiples)
        if exporting.dynamic
        else traced(exporting.traceable("planes"), exporting.patch())
    )
    try:
        program = torch.onnx.export(
            graph,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            custom_translation_table={torch.ops.segmamba.exported_scan.default: scan_call},
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"this network cannot be exported to ONNX ({str(error)[:REASON]})"
        ) from error
    assert program is not None, "dynamo=True returns one"
    model = program.model_proto
    model.producer_name, model.doc_string = "segmamba", str(exporting.facts["use"])
    if any(node.op_type == scan_function().name for node in model.graph.node):
        model.functions.append(scan_function())
    return model


def runs_onnx(file: Path) -> Runs:
    """What an ONNX file computes, by onnxruntime on the CPU.

    Args:
        file: The file.

    Returns:
        From an image to probabilities and logits.

    Raises:
        UserError: onnxruntime cannot load it, or, by the function that is returned, run it.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    refused = (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.RuntimeException,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except refused as error:
        raise UserError(
            f"{file.name}: not written, for onnxruntime cannot load it ({str(error)[:REASON]})"
        ) from error

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        try:
            probabilities, logits = session.run(list(OUTPUTS), {INPUT: image.numpy()})
        except refused as error:
            size = " x ".join(map(str, image.shape))
            raise UserError(
                f"{file.name}: not written, for onnxruntime cannot run it on an input of {size} "
                f"({str(error)[:REASON]})"
            ) from error
        return torch.from_numpy(probabilities), torch.from_numpy(logits)

    return run


def _check_packages() -> None:
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"--onnx needs {name}, which cannot be imported ({error}); pip install "
                "'segmamba[export]'"
            ) from error


ONNX = FileFormat(".onnx", _check_packages, _write, runs_onnx)
