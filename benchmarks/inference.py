"""Whole volumes: seconds a case, on the device and from file to file, against MONAI's window.

    python benchmarks/inference.py [--json FILE] [--sweep]

On a GPU it takes the paper network, on a CPU the demo network. Cases have 240x240x155 voxels of
1 mm; their brain, an ellipsoid of noise, has 142x170x138. Weights are random, which cost the same
as trained ones. "On the device" is from the prepared image in the host's memory to labels in the
host's memory: upload, windows, vote, decision.

MONAI's sliding window runs around the same network in eager mode under the same autocast, on the
same cut image, with the better of two batch sizes. The time it takes on the whole volume, which
MONAI does not cut, is given as well. Outputs are compared where both place their windows alike: a
volume of 192x192x160. Figures are medians after warm-up.

Validation is that of a run: 20 cases on the GPU already, from the weights to Dice, by a copy of the
network that is made anew, eagerly and volume by volume, against the one that a run keeps, captured,
with batches that volumes share. --validation measures it alone. --sweep also prints batch sizes,
cuDNN's autotuning and compilation, from which the defaults were chosen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel
import numpy as np
import torch

from figures import Figure, above, at_least, at_most, command_line, report
from segmamba.config import load_config, preset
from segmamba.data.case import Case
from segmamba.data.cases import find_cases
from segmamba.data.volumes import Scan, read_scan
from segmamba.device import autocast, choose_device
from segmamba.evaluation import cases as evaluation_cases
from segmamba.evaluation.cases import Validator
from segmamba.inference import ensemble_member
from segmamba.inference.captured import Eager
from segmamba.inference.ensemble_member import Member
from segmamba.inference.folder import predict_cases
from segmamba.inference.outputs import DONE, Outputs
from segmamba.inference.predictor import Predictor, PreparedScan, load_predictor
from segmamba.models import build_model

SHAPE, BRAIN = (240, 240, 155), (142, 170, 138)
# Window + n x interval along each axis: there MONAI's windows lie where ours do.
ALIGNED = (192, 192, 160)
FILES = 8
BATCHES = (1, 2, 4, 8, 16)
VALIDATED = 20
"""Cases of a validation: the paper preset's `data.validation_cases`."""
VALIDATION_GOAL_S = 2.2
"""8 % of two epochs of the paper preset, 2,000 patches at 78 a second, and their validation."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="also print the table that the defaults come from (GPU)",
    )
    parser.add_argument(
        "--validation", action="store_true", help="measure a run's validation alone (GPU)"
    )
    options = parser.parse_args()
    device = choose_device()
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{name}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if device.type == "cpu":
            figures = cpu_figures(folder, device)
        elif options.validation:
            figures = validation_figures(device)
        else:
            figures = gpu_figures(folder, device, options.sweep) | validation_figures(device)
    report(figures, options.json, device=name)


def cpu_figures(folder: Path, device: torch.device) -> dict[str, Figure]:
    """The demo network, from NIfTI files to a NIfTI file, one case.

    The time to load the network is not counted.
    """
    predictor = load_predictor(write_run(folder / "run", "demo"), device)
    cases = write_cases(folder / "data", 1)
    taken = [
        seconds(lambda: [*predict_cases(predictor, cases, Outputs(folder / "out"))])
        for _ in range(3)
    ]
    return {"demo network, NIfTI to NIfTI": at_most(statistics.median(taken), 60, "s")}


def gpu_figures(folder: Path, device: torch.device, sweep: bool) -> dict[str, Figure]:
    """The paper network on the device, from file to file and against MONAI."""
    run = write_run(folder / "run", "paper")
    cases = write_cases(folder / "data", FILES)
    predictor = load_predictor(run, device)
    flipping = load_predictor(run, device, changes={"inference.flips": True})
    scan = read_scan(cases[0])
    prepared = predictor.prepare(scan)
    torch.cuda.reset_peak_memory_stats()
    first = seconds(lambda: predictor.analyse(prepared))
    once = median_seconds(lambda: predictor.analyse(prepared))
    print(
        f"windows: {windows(predictor, prepared)}; first case {first:.1f} s; "
        f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB",
        flush=True,
    )
    flips = median_seconds(lambda: flipping.analyse(prepared), repeats=3)
    copies = device_to_host(lambda: predictor.analyse(prepared))
    print(f"copies from the device in one case: {copies}", flush=True)
    figures = {
        "a case on the device": at_most(once, 0.35, "s"),
        "a case on the device, 8 flips": at_most(flips, 2.8, "s"),
        "a case from NIfTI to NIfTI, pipelined": at_most(
            pipelined(predictor, cases, folder), 1.5, "s"
        ),
        "peak GPU memory": Figure(torch.cuda.max_memory_allocated() / 2**30, "GiB"),
    }
    figures |= against_monai(predictor, run, prepared, scan, device)
    if sweep:
        print_sweep(run, prepared, device)
    return figures


@dataclass(frozen=True)
class Noise:
    """A case of the cache as validation reads it: a brain's box full of noise."""

    id: str
    patient: str

    def image(self) -> np.ndarray:
        rng = np.random.default_rng(int(self.id))
        return rng.standard_normal((4, *BRAIN), np.float32).astype(np.float16)

    def label(self) -> np.ndarray:
        return np.random.default_rng(int(self.id)).integers(0, 4, BRAIN, np.uint8)


def validation_figures(device: torch.device) -> dict[str, Figure]:
    """Seconds of a run's validation: as it was before, part by part, and as it is."""
    config = preset("paper")
    torch.manual_seed(0)
    model = build_model(config.model).to(device)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 4, 64, 64, 64, device=device))
    cases = [Noise(str(number), str(number)) for number in range(VALIDATED)]

    def validator(*, shares: bool, eager: bool) -> Callable[[], object]:
        made = Validator(config, device)

        def validate() -> None:
            with (
                patch.dict(ensemble_member.SHARED_BATCHES, cuda=shares),
                patch.object(evaluation_cases, "EAGER_PASSES", 10**9 if eager else 1),
            ):
                if eager and made._member is not None and not shares:
                    made._member = None  # a copy of the network for every validation
                list(made.scores(model, cases))

        return validate

    ways = {
        "as before: a new copy, eager, volume by volume": validator(shares=False, eager=True),
        "batches shared, eager": validator(shares=True, eager=True),
        "batches shared, captured": validator(shares=True, eager=False),
    }
    figures = {}
    for name, validate in ways.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        first = seconds(partial(synchronised, validate))
        taken = median_seconds(partial(synchronised, validate), repeats=3)
        reserved_gib = torch.cuda.memory_reserved() / 2**30
        print(f"{name}: first {first:.2f} s, then {taken:.3f} s; {reserved_gib:.2f} GiB reserved")
        figures[f"validating {VALIDATED} cases, {name}"] = Figure(taken, "s")
    member = Member(model, config, device)
    refresh = median_seconds(lambda: synchronised(lambda: member.refresh(model)))
    figures["taking over a run's new weights"] = Figure(refresh, "s")
    last = f"validating {VALIDATED} cases, {list(ways)[-1]}"
    figures[last] = at_most(figures[last].value, VALIDATION_GOAL_S, "s")
    return figures


def pipelined(predictor: Predictor, cases: list[Case], folder: Path) -> float:
    """Seconds a case from NIfTI files, which are in the page cache, to NIfTI files."""
    for case in cases:
        [path.read_bytes() for path in case.files]
    outcomes: list[Any] = []
    taken = seconds(
        lambda: outcomes.extend(predict_cases(predictor, cases, Outputs(folder / "out")))
    )
    assert all(o.state == DONE for o in outcomes), outcomes
    return taken / len(cases)


def against_monai(
    predictor: Predictor, run: Path, prepared: PreparedScan, scan: Scan, device: torch.device
) -> dict[str, Figure]:
    """Time and output beside MONAI's sliding window; nothing where MONAI is not installed."""
    if importlib.util.find_spec("monai") is None:
        print("MONAI is not installed: its sliding window is not measured (pip install monai)")
        return {}
    from monai.inferers import sliding_window_inference

    member, config = predictor.members[0], predictor.members[0].config
    model = trained_network(run, device)

    def eager(windows: torch.Tensor) -> torch.Tensor:
        with autocast(device, torch.float16):
            logits = model(windows)
        return logits.float().softmax(1)

    @torch.inference_mode()
    def theirs(image: torch.Tensor, batch: int) -> torch.Tensor:
        return sliding_window_inference(
            image[None], config.data.patch_size, batch, eager, overlap=0.5, mode="gaussian"
        )[0]

    image = torch.from_numpy(prepared.images[config.data.spacing_mm]).to(device).float()
    whole = torch.from_numpy(scan.image).to(device)
    ours = median_seconds(lambda: synchronised(lambda: member.probabilities(image)))
    batched = {
        batch: median_seconds(partial(synchronised, partial(theirs, image, batch)), repeats=5)
        for batch in (2, 8)
    }
    uncut = median_seconds(partial(synchronised, partial(theirs, whole, 8)), repeats=3)
    aligned = torch.randn(4, *ALIGNED, generator=torch.Generator().manual_seed(0)).to(device)
    gap = float((member.probabilities(aligned) - theirs(aligned, 2)).abs().max())
    print(
        f"probabilities of the cut image: ours {ours:.3f} s; MONAI "
        f"{', '.join(f'{s:.3f} s in batches of {b}' for b, s in batched.items())}; "
        f"MONAI on the whole volume {uncut:.3f} s",
        flush=True,
    )
    ratio, ratio_uncut = min(batched.values()) / ours, uncut / ours
    return {
        "times as fast as MONAI on the same cut image": above(ratio, 1, "x"),
        "times as fast as MONAI on the whole case": at_least(ratio_uncut, 2, "x"),
        "largest difference of probabilities from MONAI's": at_most(gap, 1e-3),
    }


def print_sweep(run: Path, prepared: PreparedScan, device: torch.device) -> None:
    """Print seconds a case on the device by batch size, autotuning, folding and compilation.

    The first case pays for tuning and compiling.
    """
    ways: dict[str, tuple[bool, Callable[[Any], Any], tuple[int, ...]]] = {
        "eager, not autotuned": (False, lambda network: network, BATCHES),
        "eager": (True, lambda network: network, BATCHES),
        "eager, norms not folded": (True, lambda network: trained_network(run, device), (2, 8)),
        "compiled": (True, partial(torch.compile, fullgraph=True), (2, 8)),
        "compiled, CUDA graphs": (
            True,
            partial(torch.compile, fullgraph=True, mode="reduce-overhead"),
            (2, 8),
        ),
    }
    print(f"\n{'batch':>5} {'how':28} {'s a case':>9} {'first, s':>9} {'peak GiB':>9}")
    for how, (tuned, change, batches) in ways.items():
        for batch in batches:
            predictor = load_predictor(run, device, changes={"inference.window_batch": batch})
            member = predictor.members[0]
            networks, member._passes = member._networks, Eager()
            networks.update({dtype: change(network) for dtype, network in networks.items()})
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            with autotuning(tuned):
                first = seconds(lambda p=predictor: p.analyse(prepared))
                median = median_seconds(lambda p=predictor: p.analyse(prepared), repeats=5)
            peak_gib = torch.cuda.max_memory_allocated() / 2**30
            print(f"{batch:5} {how:28} {median:9.3f} {first:9.1f} {peak_gib:9.2f}", flush=True)


def trained_network(run: Path, device: torch.device) -> torch.nn.Module:
    """The network of a run as training left it, in eval mode."""
    model = build_model(load_config(run / "config.json").model).to(device).eval()
    model.load_state_dict(
        torch.load(
            run / "checkpoints" / "best_metric_model.pth", map_location=device, weights_only=True
        )
    )
    return model


@contextlib.contextmanager
def autotuning(on: bool) -> Iterator[None]:
    """Switch cuDNN's search for the fastest kernels on or off for a while."""
    before, ensemble_member.AUTOTUNE = ensemble_member.AUTOTUNE, on
    yield
    ensemble_member.AUTOTUNE = before


def windows(predictor: Predictor, prepared: PreparedScan) -> int:
    """How many windows one pass over the case has."""
    from segmamba.inference.sliding_window import window_starts

    member = predictor.members[0]
    sides = zip(
        next(iter(prepared.images.values())).shape[1:], member.config.data.patch_size, strict=True
    )
    return int(
        np.prod(
            [len(window_starts(side, window, member.inference.overlap)) for side, window in sides]
        )
    )


def device_to_host(action: Callable[[], object]) -> str:
    """How many copies a call makes, and the milliseconds they take in all, from the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        action()
    copies = [event for event in profile.key_averages() if "DtoH" in event.key]
    count = sum(event.count for event in copies)
    return f"{count}, {sum(event.self_device_time_total for event in copies) / 1000:.1f} ms"


def write_run(folder: Path, name: str) -> Path:
    """Write a run's folder with random weights whose norms have the statistics of noise."""
    config = preset(name)
    torch.manual_seed(0)
    model = build_model(config.model).to(choose_device())
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 4, 64, 64, 64, device=choose_device()))
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(
        {name: value.cpu() for name, value in model.state_dict().items()},
        folder / "checkpoints" / "best_metric_model.pth",
    )
    (folder / "config.json").write_text(config.to_json())
    return folder


def write_cases(folder: Path, count: int) -> list[Case]:
    """Write NIfTI cases whose files are as large as real ones."""
    centre = [(n - 1) / 2 for n in SHAPE]
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    brain = (
        sum(
            ((axis - c) / (side / 2)) ** 2
            for axis, c, side in zip(grid, centre, BRAIN, strict=True)
        )
        <= 1
    )
    rng = np.random.default_rng(0)
    affine = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    images = {
        name: np.where(brain, rng.integers(200, 600, SHAPE), 0).astype(np.int16)
        for name in ("t1", "t1ce", "t2", "flair")
    }
    for number in range(count):
        case = folder / f"Noise_{number:03d}"
        case.mkdir(parents=True)
        for name, image in images.items():
            path = case / f"{case.name}_{name}.nii.gz"
            if number:
                path.write_bytes((folder / "Noise_000" / f"Noise_000_{name}.nii.gz").read_bytes())
            else:
                nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return find_cases(folder)


def median_seconds(action: Callable[[], object], repeats: int = 7) -> float:
    """Median wall time of a call, after one that warms up."""
    action()
    return statistics.median(seconds(action) for _ in range(repeats))


def synchronised(action: Callable[[], object]) -> None:
    """Call and wait for the GPU."""
    action()
    torch.cuda.synchronize()


def seconds(action: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
