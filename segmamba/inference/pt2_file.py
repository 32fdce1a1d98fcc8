"""A trained network as a .pt2 package of torch.export and AOTInductor.

torch loads and runs it without this package:

    network = torch._inductor.aoti_load_package("net.pt2")
    probabilities, logits = network(image)

It holds machine code for the processor that it was made on.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from segmamba.data.label_sets import AUTO
from segmamba.errors import UserError
from segmamba.inference.exported_file import FileFormat, as_text
from segmamba.inference.exported_network import Exporting, Runs
from segmamba.inference.facts import KEY
from segmamba.models.exportable import traced
from segmamba.models.scan_export import expanded

COMPILERS = ("g++", "clang++", "c++")


def export_pt2(checkpoint: str | Path, file: str | Path, *, labels: str = AUTO) -> Exporting:
    """Write a trained network as a .pt2 package, with its facts in it and in FILE.json beside it.

    The file appears when torch has computed with it what the network computes. It takes one window
    of `data.patch_size`, on a CPU.

    Args:
        checkpoint: A checkpoint, as `load_member` takes it.
        file: The file to make, which ends in .pt2.
        labels: The label convention of what is written; "auto" is that of the network's classes.

    Returns:
        What was written.

    Raises:
        UserError: The file exists, there is no C++ compiler, the checkpoint is not whole, or the
            file does not compute what the network computes.
    """
    return PT2.export(checkpoint, file, labels=labels)


def _write(exporting: Exporting, file: Path) -> None:
    graph = traced(exporting.traceable(), exporting.patch())
    graph = graph.run_decompositions({torch.ops.segmamba.exported_scan.default: expanded})
    settings = {"aot_inductor.metadata": {KEY: as_text(exporting.facts)}}
    # Where the disk is full, torch's writer of archives ends the process: it writes where the
    # compiler has just had room.
    with tempfile.TemporaryDirectory() as folder:
        packaged = Path(folder) / file.name
        torch._inductor.aoti_compile_and_package(
            graph, package_path=str(packaged), inductor_configs=settings
        )
        shutil.copyfile(packaged, file)


def runs_pt2(file: Path) -> Runs:
    """What a package computes.

    Args:
        file: The package.

    Returns:
        From an image to probabilities and logits.
    """
    network = torch._inductor.aoti_load_package(str(file))

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, logits = network(image)
        return probabilities, logits

    return run


def _check_compiler() -> None:
    from torch._inductor import config

    named = config.cpp.cxx if isinstance(config.cpp.cxx, (list, tuple)) else [config.cpp.cxx]
    if not any(shutil.which(name) for name in (*filter(None, named), *COMPILERS)):
        raise UserError(
            "--pt2 compiles the network, and there is no C++ compiler; install g++, for example by "
            "apt install g++"
        )


PT2 = FileFormat(".pt2", _check_compiler, _write, runs_pt2)
