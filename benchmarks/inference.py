"""Whole volumes: seconds a case on the device and from NIfTI files to a NIfTI file, against MONAI's sliding window.

    python benchmarks/inference.py [--json FILE] [--sweep]      # on a GPU: the paper network; on a CPU: the demo network

Cases of 240x240x155 at 1 mm whose brain, an ellipsoid of noise, is 142x170x138; random weights, which cost the same as trained ones.
On the device: from the prepared image in the host's memory to labels in the host's memory (upload, windows, vote, decision). MONAI runs
around the same network in eager mode under the same autocast, on the same cut image, with the better of two batch sizes; what it takes on
the whole volume, which it does not cut, stands beside. Outputs are compared where both place their windows alike: a volume of 192x192x160.
Figures are medians after warm-up. --sweep also prints batch sizes, cuDNN's autotuning and compilation, which the defaults come from.
"""

import argparse
import contextlib
import importlib.util
import json
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch

from segmamba.config import load_config, preset
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.device import autocast, choose_device
from segmamba.inference import ensemble_member as member_module
from segmamba.inference.folder import predict_cases
from segmamba.inference.outputs import DONE, Outputs
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model

SHAPE, BRAIN = (240, 240, 155), (142, 170, 138)
ALIGNED = (
    192,
    192,
    160,
)  # window + n x interval along each axis: there MONAI's windows lie where ours do
FILES = 8
BATCHES = (1, 2, 4, 8, 16)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="also print the table that the defaults come from (GPU)",
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
        figures = (
            gpu_figures(folder, device, options.sweep)
            if device.type == "cuda"
            else cpu_figures(folder, device)
        )
    print()
    for title, figure in figures.items():
        print(
            f"{title:66} {figure['value']:9.4g} {figure['unit']:4} goal {figure['goal']:9} {'holds' if figure['holds'] else 'MISSED'}"
        )
    if options.json:
        machine = {"device": name, "platform": platform.platform(), "torch": torch.__version__}
        options.json.write_text(
            json.dumps({"figures": figures, "machine": machine}, indent=1) + "\n"
        )


def cpu_figures(folder, device):
    """The demo network, from NIfTI files to a NIfTI file, one case; loading the network is not counted."""
    predictor = load_predictor(write_run(folder / "run", "demo"), device)
    cases = write_cases(folder / "data", 1)
    taken = [
        seconds(lambda: [*predict_cases(predictor, cases, Outputs(folder / "out"))])
        for _ in range(3)
    ]
    return {"demo network, NIfTI to NIfTI": at_most(statistics.median(taken), 60, "s")}


def gpu_figures(folder, device, sweep):
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
        f"windows: {windows(predictor, prepared)}; first case {first:.1f} s; peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB",
        flush=True,
    )
    flips = median_seconds(lambda: flipping.analyse(prepared), repeats=3)
    print(
        f"copies from the device in one case: {device_to_host(lambda: predictor.analyse(prepared))}",
        flush=True,
    )
    figures = {
        "a case on the device": at_most(once, 0.35, "s"),
        "a case on the device, 8 flips": at_most(flips, 2.8, "s"),
        "a case from NIfTI to NIfTI, pipelined": at_most(
            pipelined(predictor, cases, folder), 1.5, "s"
        ),
        "peak GPU memory": {
            "value": torch.cuda.max_memory_allocated() / 2**30,
            "unit": "GiB",
            "goal": "none",
            "holds": True,
        },
    }
    figures |= against_monai(predictor, run, prepared, scan, device)
    if sweep:
        print_sweep(run, prepared, device)
    return figures


def pipelined(predictor, cases, folder):
    for case in cases:
        [path.read_bytes() for path in case.files]
    outcomes = []
    taken = seconds(
        lambda: outcomes.extend(predict_cases(predictor, cases, Outputs(folder / "out")))
    )
    assert all(o.state == DONE for o in outcomes), outcomes
    return taken / len(cases)


def against_monai(predictor, run, prepared, scan, device):
    if importlib.util.find_spec("monai") is None:
        print("MONAI is not installed: its sliding window is not measured (pip install monai)")
        return {}
    from monai.inferers import sliding_window_inference

    member, config = predictor.members[0], predictor.members[0].config
    model = trained_network(run, device)

    def eager(windows):
        with autocast(device, torch.float16):
            logits = model(windows)
        return logits.float().softmax(1)

    @torch.inference_mode()
    def theirs(image, batch):
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
        f"probabilities of the cut image: ours {ours:.3f} s; MONAI {', '.join(f'{s:.3f} s in batches of {b}' for b, s in batched.items())}; "
        f"MONAI on the whole volume {uncut:.3f} s",
        flush=True,
    )
    ratio, ratio_uncut = min(batched.values()) / ours, uncut / ours
    return {
        "times as fast as MONAI on the same cut image": {
            "value": ratio,
            "unit": "x",
            "goal": "> 1",
            "holds": ratio > 1,
        },
        "times as fast as MONAI on the whole case": {
            "value": ratio_uncut,
            "unit": "x",
            "goal": ">= 2",
            "holds": ratio_uncut >= 2,
        },
        "largest difference of probabilities from MONAI's": at_most(gap, 1e-3, ""),
    }


def print_sweep(run, prepared, device):
    """Seconds a case on the device by batch size, autotuning, folding and compilation; the first case pays for tuning and compiling."""
    ways = {
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
            predictor.members[0]._network = change(predictor.members[0]._network)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            with autotuning(tuned):
                first = seconds(lambda p=predictor: p.analyse(prepared))
                median = median_seconds(lambda p=predictor: p.analyse(prepared), repeats=5)
            print(
                f"{batch:5} {how:28} {median:9.3f} {first:9.1f} {torch.cuda.max_memory_allocated() / 2**30:9.2f}",
                flush=True,
            )


def trained_network(run, device):
    """The network of a run as training left it, in eval mode."""
    model = build_model(load_config(run / "config.json").model).to(device).eval()
    model.load_state_dict(
        torch.load(
            run / "checkpoints" / "best_metric_model.pth", map_location=device, weights_only=True
        )
    )
    return model


@contextlib.contextmanager
def autotuning(on):
    before, member_module.AUTOTUNE = member_module.AUTOTUNE, on
    yield
    member_module.AUTOTUNE = before


def windows(predictor, prepared):
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


def device_to_host(action):
    """How many copies, and of how many ms in all, from the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        action()
    copies = [event for event in profile.key_averages() if "DtoH" in event.key]
    return f"{sum(event.count for event in copies)}, {sum(event.self_device_time_total for event in copies) / 1000:.1f} ms"


def write_run(folder, name):
    """A run's folder with random weights whose norms know the statistics of noise."""
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


def write_cases(folder, count):
    """NIfTI cases whose files are as large as real ones; as Cases."""
    centre = [(n - 1) / 2 for n in SHAPE]
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    brain = (
        sum(
            ((axis - c) / (side / 2)) ** 2
            for axis, c, side in zip(grid, centre, BRAIN, strict=True)
        )
        <= 1
    )
    rng, affine = (
        np.random.default_rng(0),
        np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]]),
    )
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


def at_most(value, goal, unit):
    return {"value": value, "unit": unit, "goal": f"<= {goal:g}", "holds": value <= goal}


def median_seconds(action, repeats=7):
    action()
    return statistics.median(seconds(action) for _ in range(repeats))


def synchronised(action):
    action()
    torch.cuda.synchronize()


def seconds(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
