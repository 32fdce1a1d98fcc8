"""The portable selective scan against the sequential oracle on a CPU: error, time, memory, growth.

    python benchmarks/scan.py [--json FILE]

Forward + backward, fp32, 2 threads, batch 1, 64 channels, 16 states. Relative error is against the oracle in float64, over the
output and all gradients. Memory is the peak of torch's allocations beyond inputs and incoming gradient, from the profiler.
Times are the best of several repeats, which other work on the machine disturbs least. About a minute.
With a CUDA device the GPU's kernels follow, at the paper network's shapes, bf16, as CUDA graphs.
"""

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path

import torch

from segmamba.errors import UserError
from segmamba.models.scan import choose_scan, selective_scan

LENGTH, CHANNELS, STATES, THREADS = 4096, 64, 16, 2
LENGTHS = (1024, 4096, 16384, 65536)
GPU_SHAPES = ((2, 16384, 256), (2, 2048, 512), (2, 256, 1024))  # stage 3, stage 4 and bottleneck


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    json_file = parser.parse_args().json
    torch.set_num_threads(THREADS)
    figures = {**against_oracle(), **growth()}
    if torch.cuda.is_available():
        gpu_kernels()
    machine = f"{cpu_name()}, {THREADS} threads, torch {torch.__version__}"
    print(f"\n{machine}")
    for name, figure in figures.items():
        print(
            f"{name:44} {figure['value']:10.3g} {figure['unit']:4} goal {figure['goal']:8} {'holds' if figure['holds'] else 'MISSED'}"
        )
    if json_file:
        write_json({"figures": figures, "machine": machine}, json_file)


def against_oracle():
    inputs = random_inputs(LENGTH)
    exact = run("sequential", [t.detach().double().requires_grad_() for t in inputs])
    error = max(
        relative_error(got, want) for got, want in zip(run("portable", inputs), exact, strict=True)
    )
    seconds = {
        name: best_seconds(name, inputs, repeats)
        for name, repeats in (("sequential", 3), ("portable", 15))
    }
    peaks = {name: peak_bytes(name, inputs) for name in seconds}
    print(f"{LENGTH} tokens, {CHANNELS} channels, {STATES} states   ms   peak MiB")
    for name in seconds:
        print(f"{name:40} {seconds[name] * 1e3:7.1f} {peaks[name] / 2**20:8.1f}")
    speedup, memory = (
        seconds["sequential"] / seconds["portable"],
        peaks["portable"] / peaks["sequential"],
    )
    return {
        "portable scan, times as fast as the oracle": {
            "value": speedup,
            "unit": "x",
            "goal": ">= 20",
            "holds": speedup >= 20,
        },
        "portable scan, relative error": {
            "value": error,
            "unit": "",
            "goal": "< 1e-5",
            "holds": error < 1e-5,
        },
        "portable scan, share of the oracle's memory": {
            "value": memory,
            "unit": "",
            "goal": "< 0.25",
            "holds": memory < 0.25,
        },
    }


def growth():
    """Time and memory per token over the lengths; linear growth keeps them level, so the longest may cost no more than the shortest."""
    inputs = {length: random_inputs(length) for length in LENGTHS}
    seconds = {length: best_seconds("portable", inputs[length], 5) for length in LENGTHS}
    peaks = {length: peak_bytes("portable", inputs[length]) for length in LENGTHS}
    print(f"\n{'portable, tokens':40} {'ms':>7} {'us/token':>8} {'peak MiB':>8}")
    for length in LENGTHS:
        print(
            f"{length:<40} {seconds[length] * 1e3:7.1f} {seconds[length] * 1e6 / length:8.2f} {peaks[length] / 2**20:8.1f}"
        )
    ratio = (seconds[LENGTHS[-1]] / LENGTHS[-1]) / (seconds[LENGTH] / LENGTH)
    return {
        f"time per token, {LENGTHS[-1]} against {LENGTH}": {
            "value": ratio,
            "unit": "x",
            "goal": "<= 1.25",
            "holds": ratio <= 1.25,
        }
    }


def gpu_kernels():
    """Prints forward and backward of every kernel that runs here, with what it copies and sums around it."""
    from triton.testing import do_bench

    def replay_ms(function):
        function()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        return do_bench(graph.replay, return_mode="median")

    print(f"\n{torch.cuda.get_device_name()}, ms at (batch, tokens, channels)   forward backward")
    for name in ("mamba_ssm", "triton"):
        try:
            choose_scan(name, "cuda")
        except UserError as error:
            print(error)
            continue
        module = importlib.import_module(f"segmamba.models.scan_{name}")
        for shape in GPU_SHAPES:
            inputs = [
                t.detach().cuda()
                for t in random_inputs(shape[1], channels=shape[2], batch=shape[0])
            ]
            inputs = [
                t.bfloat16() if i in (0, 1, 3, 4) else t for i, t in enumerate(inputs)
            ]  # x, delta, B, C
            y, states = module.scan_forward(*inputs)
            forward = replay_ms(lambda: module.scan_forward(*inputs))  # noqa: B023
            backward = replay_ms(lambda: module.scan_backward(y.contiguous(), *inputs, states))  # noqa: B023
            print(f"{name:12}{shape!s:28}{forward:12.3f}{backward:9.3f}")


def random_inputs(length, *, channels=CHANNELS, batch=1):
    """x, raw delta, A, B, C, D, bias as a trained layer would see them: A = -1..-N, step sizes from 0.001 to 0.1 and above."""
    torch.manual_seed(0)
    x, delta = torch.randn(batch, length, channels), torch.randn(batch, length, channels)
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    B, C = torch.randn(batch, length, STATES), torch.randn(batch, length, STATES)
    return [
        t.requires_grad_()
        for t in (x, delta, A, B, C, torch.ones(channels), torch.linspace(-6, -2, channels))
    ]


def run(name, inputs):
    """The output and all gradients; the incoming gradient is x itself, which is as random as any."""
    y = selective_scan(*inputs, implementation=name)
    return [y.detach(), *torch.autograd.grad(y, inputs, inputs[0].detach())]


def relative_error(got, want):
    return float((got.double() - want).norm() / want.norm())


def best_seconds(name, inputs, repeats):
    run(name, inputs)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(name, inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes(name, inputs):
    """Highest sum of live allocations made during a run: the profiler's running total of torch's CPU allocator."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        run(name, inputs)
    live = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def cpu_name():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next(
        (line.split(": ")[1] for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def write_json(tree, path):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(tree, indent=2) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
