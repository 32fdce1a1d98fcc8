"""An exported network by the example runner, against our own prediction, on a CPU.

    python benchmarks/exported.py [--preset demo] [--repeats 5] [--threads 2] [--dynamic] [--pt2]
        [--window] [--json FILE]

One 240x240x155 case, from four NIfTI files to one: by `segmamba predict`'s own code, and by
examples/segment_nifti.py with an ONNX file of one window; with --dynamic also with one of any
window, whose 3-D convolutions stay 3-D; with --pt2 also with a .pt2 package. The ways take turns,
and a ratio is the median of those of the turns, so that what else runs on the machine meets all of
them. The seconds of CPU that all threads of the process took are compared too, which depend less on
what else runs: onnxruntime's threads sleep while they wait. Networks are loaded before.
Segmentations are compared.

--window measures the forward pass of one window in their place, which takes a paper network a
minute in all.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import torch

from figures import Figure, at_most, command_line, report
from inference import seconds, write_cases, write_run
from segmamba.inference.exported_network import Exporting, load_for_export
from segmamba.inference.folder import predict_cases
from segmamba.inference.onnx_file import export_onnx
from segmamba.inference.outputs import Outputs
from segmamba.inference.predictor import load_predictor
from segmamba.inference.pt2_file import export_pt2

EXAMPLE = Path(__file__).parents[1] / "examples" / "segment_nifti.py"
OURS, FIXED, DYNAMIC, PT2 = "ours", "ONNX, one window", "ONNX, any window", ".pt2"
GOAL = 1.5
"""How many times our own seconds the example may take."""
Ways = dict[str, Callable[[], Any]]
CLOCKS = ("s", "CPU s")
Taken = dict[str, dict[str, list[float]]]
"""What each of CLOCKS measured, by way."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--preset", default="demo", help="whose network, demo or paper")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each way")
    parser.add_argument("--dynamic", action="store_true", help="also an ONNX file of any window")
    parser.add_argument("--pt2", action="store_true", help="also a .pt2 package")
    parser.add_argument("--window", action="store_true", help="one forward pass, not a case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = write_run(folder / "run", options.preset)
        files = write_files(run, folder, options)
        ways = (
            window_ways(load_for_export(run), files, options)
            if options.window
            else case_ways(run, files, folder, options)
        )
        taken = in_turns(ways, options.repeats)
        figures = compared(taken, f"{options.preset} network, {options.threads} threads")
        if not options.window:
            figures |= agreement(folder, files)
    load = os.getloadavg()[0]
    report(figures, options.json, threads=options.threads, load=round(load, 1))


def write_files(run: Path, folder: Path, options: argparse.Namespace) -> dict[str, Path]:
    """The exported files by what they are called in the table."""
    files = {FIXED: folder / "fixed.onnx"}
    if options.dynamic:
        files[DYNAMIC] = folder / "dynamic.onnx"
    for name, file in files.items():
        taken = seconds(partial(export_onnx, run, file, dynamic=name == DYNAMIC))
        print(f"{name}: written and checked in {taken:.0f} s", flush=True)
    if options.pt2:
        files[PT2] = folder / "net.pt2"
        print(f"{PT2}: {seconds(partial(export_pt2, run, files[PT2])):.0f} s", flush=True)
    return files


def case_ways(run: Path, files: dict[str, Path], folder: Path, options: argparse.Namespace) -> Ways:
    """What segments the case from files to a file, with networks that are loaded."""
    example = imported_example()
    cases = write_cases(folder / "data", 1)
    predictor = load_predictor(run, "cpu")
    images = [cases[0].images[name] for name in ("T1", "T1ce", "T2", "FLAIR")]

    def by_example(predict: Any, facts: Any, output: Path) -> None:
        volumes, like = example.read(images, facts)
        spacing_mm = nibabel.affines.voxel_sizes(like.affine)
        example.write(output, example.segment(predict, facts, volumes, spacing_mm), like, facts)

    facts = load_for_export(run).facts
    outputs = Outputs(folder / "out", facts["labels"]["convention"])
    ways: Ways = {OURS: lambda: [*predict_cases(predictor, cases, outputs)]}
    for name, file in files.items():
        predict = loaded(example, file, options.threads)
        ways[name] = partial(by_example, predict, facts, file.with_suffix(".nii.gz"))
    return ways


def window_ways(exporting: Exporting, files: dict[str, Path], options: argparse.Namespace) -> Ways:
    """What predicts one window."""
    example, image = imported_example(), exporting.patch()

    @torch.inference_mode()
    def ours() -> None:
        exporting.network(image)

    windows = image.numpy()
    return {OURS: ours} | {
        name: partial(loaded(example, file, options.threads), windows)
        for name, file in files.items()
    }


def loaded(example: ModuleType, file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The example's way to a network, with as many threads as the others have."""
    if file.suffix == ".pt2":
        return example.load_pt2(file)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return lambda windows: session.run(["probabilities"], {"image": windows})[0]


def in_turns(ways: Ways, repeats: int) -> Taken:
    """Seconds and CPU seconds of each way, by turns, after one that warms up."""
    taken: Taken = {clock: {name: [] for name in ways} for clock in CLOCKS}
    for turn in range(repeats + 1):
        for name, action in ways.items():
            before = time.process_time()
            spent = dict(zip(CLOCKS, (seconds(action), time.process_time() - before), strict=True))
            words = ", ".join(f"{value:.2f} {clock}" for clock, value in spent.items())
            print(f"{time.strftime('%H:%M:%S')} turn {turn}: {name} {words}", flush=True)
            for clock in CLOCKS if turn else ():
                taken[clock][name].append(spent[clock])
    return taken


def compared(taken: Taken, title: str) -> dict[str, Figure]:
    """The medians, and the ratios to ours."""
    figures = {
        f"{title}: {name}, {clock}": Figure(statistics.median(values), "s")
        for clock, of_ways in taken.items()
        for name, values in of_ways.items()
    }
    for clock, of_ways in taken.items():
        for name, values in of_ways.items():
            pairs = zip(values, of_ways[OURS], strict=True)
            ratio = statistics.median(value / own for value, own in pairs)
            if name != OURS:
                figures[f"{title}: {name}, times our {clock}"] = (
                    at_most(ratio, GOAL, "x") if name == FIXED else Figure(ratio, "x")
                )
    return figures


def agreement(folder: Path, files: dict[str, Path]) -> dict[str, Figure]:
    """The share of voxels, in percent, in which a segmentation differs from ours."""
    (ours,) = (folder / "out").glob("*.nii.gz")
    expected = np.asanyarray(nibabel.load(ours).dataobj)
    return {
        f"{name}: voxels that differ from ours": at_most(
            100
            * float(
                np.mean(
                    np.asanyarray(nibabel.load(file.with_suffix(".nii.gz")).dataobj) != expected
                )
            ),
            0.01,
            "%",
        )
        for name, file in files.items()
    }


def imported_example() -> ModuleType:
    """examples/segment_nifti.py as a module."""
    specification = importlib.util.spec_from_file_location("segment_nifti", EXAMPLE)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
