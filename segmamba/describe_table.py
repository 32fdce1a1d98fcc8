"""`segmamba describe`: a network's parts, its totals and the memory of training it, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from segmamba.config import Config
from segmamba.device import choose_device, mixed_dtype
from segmamba.models.describe import TRAINING_PASSES, describe_network
from segmamba.training.memory import estimate_training_memory, measure_training_memory

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.table import Table

MIB, GIB = 2**20, 2**30
MEMORY_ROWS = {
    "weights": "weights and norm statistics",
    "optimizer": "the optimizer's moments",
    "kept": "kept for the backward pass, loss included",
    "passing": "gradients and passing values",
    "workspace": "allowance for kernels and allocator",
    "total": "estimated peak",
}


def describe(config: Config, *, measure: bool = False) -> dict[str, Any]:
    """Describe the network of a configuration.

    fp32 is described for this device. Mixed precision is described for a GPU, which need not be
    here, unless the configuration rules it out.

    Args:
        config: The configuration.
        measure: Also train two steps on this device.

    Returns:
        Plain values: "input"; "parts", a dict each; "totals"; "training_memory", an estimate by
        precision in bytes; and "measured", None without `measure`.
    """
    import torch

    dtypes: dict[str, torch.dtype | None] = (
        {"mixed": torch.bfloat16, "fp32": None}
        if config.train.precision == "mixed"
        else {"fp32": None}
    )
    devices = {"mixed": "cuda", "fp32": choose_device().type}
    patch_size, batch_size = config.data.patch_size, config.train.batch_size
    parts = {
        precision: describe_network(
            config.model, patch_size=patch_size, batch_size=batch_size, dtype=dtype
        )
        for precision, dtype in dtypes.items()
    }
    rows = [
        {
            "part": part.name,
            "output": part.output,
            "parameters": part.parameters,
            "forward_flops": part.forward_flops,
            "kept_bytes": {precision: parts[precision][i].kept_bytes for precision in parts},
        }
        for i, part in enumerate(parts["fp32"])
    ]
    flops = sum(part.forward_flops for part in parts["fp32"])
    return {
        "input": {"patch_size": patch_size, "batch_size": batch_size},
        "parts": rows,
        "totals": {
            "parameters": sum(part.parameters for part in parts["fp32"]),
            "forward_flops": flops,
            "training_flops": TRAINING_PASSES * flops,
            "kept_bytes": {
                precision: sum(part.kept_bytes for part in parts[precision]) for precision in parts
            },
        },
        "training_memory": {
            precision: _estimated(config, devices[precision], dtype)
            for precision, dtype in dtypes.items()
        },
        "measured": _measured(config) if measure else None,
    }


def _estimated(config: Config, device_type: str, dtype: torch.dtype | None) -> dict[str, Any]:
    estimate = estimate_training_memory(config, device_type=device_type, dtype=dtype)
    return {"device": device_type} | estimate.as_dict()


def _measured(config: Config) -> dict[str, Any]:
    """Measure true training steps on this device, beside their estimate."""
    import torch

    device = choose_device()
    dtype = mixed_dtype(device, config.train.precision)
    peak = measure_training_memory(config, device)
    estimate = estimate_training_memory(config, device_type=device.type, dtype=dtype).total
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "device": name,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "peak_bytes": peak,
        "estimate_bytes": estimate,
        "estimate_share": round(estimate / peak, 3),
    }


def render(description: dict[str, Any], console: Console) -> None:
    """Print a description as tables of at most 100 columns.

    Args:
        description: What `describe` returned.
        console: Where it is printed.
    """
    batch = description["input"]["batch_size"]
    patch = "x".join(map(str, description["input"]["patch_size"]))
    console.print(
        f"{batch} x 4 x {patch}: batch, modalities, voxels along x, y, z\n", highlight=False
    )
    console.print(_parts_table(description))
    console.print()
    console.print(_memory_table(description["training_memory"]))
    if measured := description["measured"]:
        console.print(
            f"\nmeasured on {measured['device']}, {measured['precision']}: "
            f"{_size(measured['peak_bytes'])}; the estimate is "
            f"{_size(measured['estimate_bytes'])}, {measured['estimate_share']:.0%} of it",
            highlight=False,
        )


def _parts_table(description: dict[str, Any]) -> Table:
    precisions, totals = list(description["training_memory"]), description["totals"]
    table = _table(
        ["part", "output", "parameters", "GFLOP", *(f"kept {name}" for name in precisions)]
    )

    def add(name: str, output: str, row: dict[str, Any]) -> None:
        kept = (_size(row["kept_bytes"][precision]) for precision in precisions)
        table.add_row(
            name, output, f"{row['parameters']:,}", f"{row['forward_flops'] / 1e9:,.1f}", *kept
        )

    for row in description["parts"]:
        add(row["part"], _shape(row["output"]), row)
    table.add_section()
    add("forward pass", "", totals)
    table.add_row(
        "training step",
        f"{TRAINING_PASSES} x forward",
        "",
        f"{totals['training_flops'] / 1e9:,.1f}",
    )
    return table


def _shape(output: tuple[int, ...]) -> str:
    """Write an output's channels and voxels; nothing for a part that hands on no volume."""
    channels, voxels = output[1:2], output[2:]
    return " x ".join([*map(str, channels), "x".join(map(str, voxels))]) if voxels else ""


def _memory_table(estimates: dict[str, dict[str, Any]]) -> Table:
    kinds = {"cuda": "GPU", "cpu": "CPU"}
    columns = (f"{name}, {kinds[estimate['device']]}" for name, estimate in estimates.items())
    table = _table(["memory of a training step", *columns])
    for key, name in MEMORY_ROWS.items():
        if key == "total":
            table.add_section()
        table.add_row(name, *(_size(estimate[key]) for estimate in estimates.values()))
    return table


def _table(columns: Iterable[str]) -> Table:
    """Make a table with the first column on the left and the others on the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    return table


def _size(nbytes: float) -> str:
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.1f} MiB"
