"""What `segmamba describe` gathers and prints: a network's parts, its totals and the memory that training it takes."""

from segmamba.device import choose_device, mixed_dtype
from segmamba.models.describe import TRAINING_PASSES, describe_network
from segmamba.training.memory import estimate_training_memory, measure_training_memory

MIB, GIB = 2**20, 2**30
MEMORY_ROWS = {
    "weights": "weights and norm statistics",
    "optimizer": "AdamW's moments",
    "kept": "kept for the backward pass, loss included",
    "passing": "gradients and passing values",
    "workspace": "allowance for kernels and allocator",
    "total": "estimated peak",
}


def describe(config, *, measure=False):
    """A dict of plain values for a Config: input, parts, totals, training_memory by precision, and measured or None.

    fp32 is described for this device, and mixed for a GPU, unless the configuration rules it out: who asks need not have the GPU.
    """
    import torch

    dtypes = (
        {"mixed": torch.bfloat16, "fp32": None}
        if config.train.precision == "mixed"
        else {"fp32": None}
    )
    devices = {"mixed": "cuda", "fp32": choose_device().type}
    size = {"patch_size": config.data.patch_size, "batch_size": config.train.batch_size}
    parts = {
        precision: describe_network(config.model, dtype=dtype, **size)
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
    flops = sum(row["forward_flops"] for row in rows)
    return {
        "input": size,
        "parts": rows,
        "totals": {
            "parameters": sum(row["parameters"] for row in rows),
            "forward_flops": flops,
            "training_flops": TRAINING_PASSES * flops,
            "kept_bytes": {
                precision: sum(row["kept_bytes"][precision] for row in rows) for precision in parts
            },
        },
        "training_memory": {
            precision: _estimated(config, devices[precision], dtype)
            for precision, dtype in dtypes.items()
        },
        "measured": _measured(config) if measure else None,
    }


def _estimated(config, device_type, dtype):
    return {"device": device_type} | estimate_training_memory(
        config, device_type=device_type, dtype=dtype
    ).as_dict()


def _measured(config):
    """{device, precision, peak_bytes, estimate_bytes, estimate_share} of true training steps here."""
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


def render(described, console):
    """The dict of `describe` as tables of at most 100 columns on a rich Console."""
    batch, patch = (
        described["input"]["batch_size"],
        "x".join(map(str, described["input"]["patch_size"])),
    )
    console.print(
        f"{batch} x 4 x {patch}: batch, modalities, voxels along x, y, z\n", highlight=False
    )
    console.print(_parts_table(described))
    console.print()
    console.print(_memory_table(described["training_memory"]))
    if measured := described["measured"]:
        console.print(
            f"\nmeasured on {measured['device']}, {measured['precision']}: {_size(measured['peak_bytes'])}; "
            f"the estimate is {_size(measured['estimate_bytes'])}, {measured['estimate_share']:.0%} of it",
            highlight=False,
        )


def _parts_table(described):
    precisions, totals = list(described["training_memory"]), described["totals"]
    table = _table(
        "part", "output", "parameters", "GFLOP", *(f"kept {precision}" for precision in precisions)
    )

    def add(name, output, row):
        kept = (_size(row["kept_bytes"][precision]) for precision in precisions)
        table.add_row(
            name, output, f"{row['parameters']:,}", f"{row['forward_flops'] / 1e9:,.1f}", *kept
        )

    for row in described["parts"]:
        channels, voxels = row["output"][1:2], row["output"][2:]
        add(
            row["part"],
            " x ".join([*map(str, channels), "x".join(map(str, voxels))]) if voxels else "",
            row,
        )
    table.add_section()
    add("forward pass", "", totals)
    table.add_row(
        "training step",
        f"{TRAINING_PASSES} x forward",
        "",
        f"{totals['training_flops'] / 1e9:,.1f}",
    )
    return table


def _memory_table(estimates):
    where = {"cuda": "GPU", "cpu": "CPU"}
    table = _table(
        "memory of a training step",
        *(f"{precision}, {where[estimate['device']]}" for precision, estimate in estimates.items()),
    )
    for key, name in MEMORY_ROWS.items():
        if key == "total":
            table.add_section()
        table.add_row(name, *(_size(estimate[key]) for estimate in estimates.values()))
    return table


def _table(first, *others):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _size(nbytes):
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:.1f} MiB"
