"""One training step of our network and of its peers on one GPU.

    python benchmarks/train_step.py [--only NAME ...] [--modes eager compiled graphs] [--json FILE]

A step is forward + Dice and cross entropy + backward + AdamW on a batch of 2 patches, 4x128x128x64.

eager:    as PyTorch runs it.
compiled: torch.compile of network and loss, one graph.
graphs:   the same, captured as CUDA graphs.

A figure is the median of 20 steps after warm-up. Peers run in the same process, with the same loss,
optimiser and precision. Inference is the forward pass alone, without gradients, in the same mode,
with norms folded and weights in half precision as prediction has them. TFLOP are counted by
`describe`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from figures import Figure, command_line, report
from segmamba.config import ModelConfig, preset
from segmamba.device import autocast
from segmamba.inference.fold import folded, in_half
from segmamba.models import AUTHORS, build_model
from segmamba.models.describe import describe_arms
from segmamba.models.peers import PEERS
from segmamba.training.compiling import COMPILE_OPTIONS
from segmamba.training.step import ForwardLoss

PATCH, BATCH = (128, 128, 64), 2
WARM_UP, STEPS = 4, 20
MODES: dict[str, dict[str, Any] | None] = {
    "eager": None,
    "compiled": COMPILE_OPTIONS | {"triton.cudagraphs": False},
    "graphs": COMPILE_OPTIONS,
}


UNITS = {  # of the columns
    "ms": "ms",
    "patches_per_s": "/s",
    "peak_GiB": "GiB",
    "parameters_M": "M",
    "busy": "",
    "warm_up_s": "s",
    "loss": "",
    "inference_ms": "ms",
    "TFLOP": "TFLOP",
}


def network(**changes: object) -> ModelConfig:
    """The paper network with changes."""
    return preset("paper").changed({f"model.{k}": v for k, v in changes.items()}).model


NETWORKS = {
    "segmamba": network(),
    "segmamba, tri": network(scan_order="tri"),
    "segmamba, mamba-ssm": network(scan="mamba_ssm"),
    "segmamba, triton": network(scan="triton"),
    "segmamba, portable": network(scan="portable"),
    "segmamba, hilbert": network(scan_path="hilbert"),
    "segmamba, mamba2": network(mixer="mamba2", d_state=64),
    "segmamba, conv": network(mixer="conv"),
    "segmamba, none": network(mixer="none"),
    "segmamba, no mamba": network(mamba_depths=(0, 0, 0)),
    **{name: network(name=name) for name in (*PEERS, *AUTHORS)},
}


def measure(config: ModelConfig, mode: str, dtype: torch.dtype) -> dict[str, float]:
    """The columns of UNITS, without TFLOP, of one network in one mode."""
    torch.manual_seed(0)
    torch.compiler.reset()
    torch.cuda.reset_peak_memory_stats()
    model = build_model(config).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    image = torch.randn(BATCH, 4, *PATCH, device="cuda")
    label = torch.randint(0, 4, (BATCH, *PATCH), device="cuda", dtype=torch.uint8)
    compute = ForwardLoss(model, preset("paper"))
    run = _in_mode(compute, mode)

    def step() -> torch.Tensor:
        with autocast(image.device, dtype):
            loss, _ = run(image, label)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss

    warm_up_s, ms = _timed(step)
    row = {
        "ms": ms,
        "patches_per_s": 1000 * BATCH / ms,
        "peak_GiB": torch.cuda.max_memory_allocated() / 2**30,
        "parameters_M": sum(p.numel() for p in model.parameters()) / 1e6,
        "busy": _busy_share(step),
        "warm_up_s": warm_up_s,
        "loss": float(step().detach()),
    }
    forward = _in_mode(in_half(folded(model, "cuda"), dtype), mode)

    def predict() -> torch.Tensor:
        with torch.no_grad(), autocast(image.device, dtype):
            return forward(image)

    return row | {"inference_ms": _timed(predict)[1]}


def _in_mode(module: torch.nn.Module, mode: str) -> Any:
    return torch.compile(module, options=MODES[mode], fullgraph=True) if MODES[mode] else module


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first WARM_UP calls and median milliseconds of the next STEPS."""
    began = time.perf_counter()
    for _ in range(WARM_UP):
        call()
    torch.cuda.synchronize()
    warm_up_s, times = time.perf_counter() - began, []
    for _ in range(STEPS):
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return warm_up_s, 1000 * statistics.median(times)


def _busy_share(step: Callable[[], object], steps: int = 5) -> float:
    """Share of the wall time in which the GPU runs a kernel, from the profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        wall_us = 1e6 * (time.perf_counter() - began)
    return sum(event.self_device_time_total for event in profile.key_averages()) / wall_us


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.dtype}, "
        f"batch {BATCH}, patch {PATCH}"
    )
    arms = describe_arms(
        {name: NETWORKS[name] for name in options.only}, patch_size=PATCH, batch_size=BATCH
    )
    flops = {arm["arm"]: arm["training_flops"] / 1e12 for arm in arms}
    print(
        f"{'network':24}{'mode':10}{'ms':>8}{'patches/s':>11}{'peak GiB':>10}{'params M':>10}"
        f"{'TFLOP':>8}{'GPU busy':>10}{'inference ms':>14}{'warm-up s':>11}",
        flush=True,
    )
    figures: dict[str, Figure] = {}
    for name in options.only:
        for mode in options.modes:
            try:
                row = measure(NETWORKS[name], mode, getattr(torch, options.dtype))
            except Exception as error:  # a peer may fail in a mode: that is a row, not the end
                reason = str(error).strip().splitlines()[0][:150]
                print(f"{name:24}{mode:10}{type(error).__name__}: {reason}", flush=True)
                continue
            finally:
                gc.collect()
                torch.cuda.empty_cache()
            row["TFLOP"] = flops[name]
            figures |= {
                f"{name}, {mode}, {column}": Figure(value, UNITS[column])
                for column, value in row.items()
            }
            print(
                f"{name:24}{mode:10}{row['ms']:8.1f}{row['patches_per_s']:11.1f}"
                f"{row['peak_GiB']:10.2f}{row['parameters_M']:10.2f}{row['TFLOP']:8.2f}"
                f"{row['busy']:10.0%}{row['inference_ms']:14.2f}{row['warm_up_s']:11.1f}",
                flush=True,
            )
    report(figures, options.json, table=False, dtype=options.dtype)


if __name__ == "__main__":
    main()
