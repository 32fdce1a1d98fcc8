"""The portable selective scan against the sequential oracle on a CPU: error, time, memory, growth.

    python benchmarks/scan.py [--json FILE]

Forward + backward, fp32, 2 threads, batch 1, 64 channels, 16 states. The relative error is against
the oracle in float64, over the output and all gradients. Memory is the peak of torch's allocations
beyond inputs and incoming gradient, from the profiler. Times are the best of several repeats, which
other work on the machine disturbs least. It takes about a minute. With a CUDA device the GPU's
kernels follow, at the paper network's shapes, bf16, as CUDA graphs.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

import torch

from figures import Figure, at_least, at_most, below, command_line, report
from segmamba.errors import UserError
from segmamba.models.scan import choose_scan, selective_scan

LENGTH, CHANNELS, STATES, THREADS = 4096, 64, 16, 2
LENGTHS = (1024, 4096, 16384, 65536)
GPU_SHAPES = ((2, 16384, 256), (2, 2048, 512), (2, 256, 1024))  # stage 3, stage 4 and bottleneck


def main() -> None:
    parser = command_line(__doc__)
    json_file = parser.parse_args().json
    torch.set_num_threads(THREADS)
    figures = {**against_oracle(), **growth()}
    if torch.cuda.is_available():
        gpu_kernels()
    report(figures, json_file)


def against_oracle() -> dict[str, Figure]:
    """Speed, error and memory beside the token-by-token oracle."""
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
    speedup = seconds["sequential"] / seconds["portable"]
    memory = peaks["portable"] / peaks["sequential"]
    return {
        "portable scan, times as fast as the oracle": at_least(speedup, 20, "x"),
        "portable scan, relative error": below(error, 1e-5),
        "portable scan, share of the oracle's memory": below(memory, 0.25),
    }


def growth() -> dict[str, Figure]:
    """Time and memory per token over the lengths.

    Linear growth keeps them level: the longest sequence should cost no more per token than LENGTH.
    """
    inputs = {length: random_inputs(length) for length in LENGTHS}
    seconds = {length: best_seconds("portable", inputs[length], 5) for length in LENGTHS}
    peaks = {length: peak_bytes("portable", inputs[length]) for length in LENGTHS}
    print(f"\n{'portable, tokens':40} {'ms':>7} {'us/token':>8} {'peak MiB':>8}")
    for length in LENGTHS:
        print(
            f"{length:<40} {seconds[length] * 1e3:7.1f} {seconds[length] * 1e6 / length:8.2f} "
            f"{peaks[length] / 2**20:8.1f}"
        )
    ratio = (seconds[LENGTHS[-1]] / LENGTHS[-1]) / (seconds[LENGTH] / LENGTH)
    return {f"time per token, {LENGTHS[-1]} against {LENGTH}": at_most(ratio, 1.25, "x")}


def gpu_kernels() -> None:
    """Print forward and backward of every kernel that runs here.

    The times include what a kernel copies and sums around it.
    """
    from triton.testing import do_bench

    def replay_ms(function: Callable[[], object]) -> float:
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
            backward = replay_ms(
                lambda: module.scan_backward(y.contiguous(), *inputs, states)  # noqa: B023
            )
            print(f"{name:12}{shape!s:28}{forward:12.3f}{backward:9.3f}")


def random_inputs(length: int, *, channels: int = CHANNELS, batch: int = 1) -> list[torch.Tensor]:
    """x, raw delta, A, B, C, D and bias as a trained layer would see them.

    A = -1..-N; step sizes range from 0.001 to 0.1 and above.
    """
    torch.manual_seed(0)
    x, delta = torch.randn(batch, length, channels), torch.randn(batch, length, channels)
    A = -torch.arange(1.0, STATES + 1).repeat(channels, 1)
    B, C = torch.randn(batch, length, STATES), torch.randn(batch, length, STATES)
    return [
        t.requires_grad_()
        for t in (x, delta, A, B, C, torch.ones(channels), torch.linspace(-6, -2, channels))
    ]


def run(name: str, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The output and all gradients; the incoming gradient is x, which is as random as any."""
    y = selective_scan(*inputs, implementation=name)
    return [y.detach(), *torch.autograd.grad(y, inputs, inputs[0].detach())]


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference by the norm of what is exact."""
    return float((got.double() - want).norm() / want.norm())


def best_seconds(name: str, inputs: list[torch.Tensor], repeats: int) -> float:
    """The fastest of several runs, after one that warms up."""
    run(name, inputs)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(name, inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_bytes(name: str, inputs: list[torch.Tensor]) -> int:
    """Highest sum of live allocations that a run makes, as the profiler sees torch's allocator."""
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


if __name__ == "__main__":
    main()
