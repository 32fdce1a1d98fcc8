"""What a network is said to cost, against hand counts and against the real network."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from segmamba.config import preset
from segmamba.models import build_model, describe
from segmamba.models.describe import describe_arms, describe_network, scan_flops
from tests.tiny import TINY

SMALL = TINY.changed({"model.base_channels": 4, "model.mamba_depths": (1, 1, 1)}).model
PATCH, BATCH = (32, 16, 16), 2
VOXELS = BATCH * 32 * 16 * 16


def parts_of(config=SMALL, **options):
    return {
        part.name: part
        for part in describe_network(config, **{"patch_size": PATCH, "batch_size": BATCH} | options)
    }


def test_parts_are_named_as_the_network_documents_them_and_their_parameters_add_up():
    parts = parts_of()
    assert list(parts) == [
        "stem",
        "stage 1",
        "stage 2",
        "stage 3",
        "stage 4",
        "bottleneck",
        "decoder 4",
        "decoder 3",
        "decoder 2",
        "decoder 1",
        "head",
    ]
    assert sum(part.parameters for part in parts.values()) == sum(
        p.numel() for p in build_model(SMALL).parameters()
    )


def test_output_shapes_halve_down_to_the_bottleneck_and_come_back():
    parts = parts_of()
    assert parts["stage 1"].output == (BATCH, 4, 32, 16, 16)
    assert parts["bottleneck"].output == (BATCH, 64, 2, 1, 1)
    assert parts["decoder 1"].output == (BATCH, 4, 32, 16, 16)


def test_convolutions_count_two_flops_per_multiply_add():
    # 4 modalities to 4 channels, then 4 to 4; no shortcut convolution
    by_hand = 2 * VOXELS * (27 * 4 * 4 + 27 * 4 * 4)
    assert parts_of()["stem"].forward_flops == by_hand


def test_a_mamba_block_adds_its_projections_and_the_formula_of_its_scan():
    without, one = (
        parts_of(dataclasses.replace(SMALL, mamba_depths=(depth, 0, 0)))["stage 3"]
        for depth in (0, 1)
    )
    tokens, channels, inner, rank, states = VOXELS // 64, 16, 32, 1, SMALL.d_state
    projections = (
        2
        * tokens
        * (channels * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * channels)
    )
    scan = scan_flops(BATCH, tokens // BATCH, inner, states)
    convolution = 2 * tokens * inner * SMALL.d_conv  # counted or not, as the block computes it
    assert one.forward_flops - without.forward_flops - projections - scan in (0, convolution)


def test_kept_activations_are_those_of_the_real_network(torchs_convolutions):
    torch.manual_seed(0)
    model, storages = build_model(dataclasses.replace(SMALL, scan="portable")).train(), {}
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.rand(BATCH, 4, *PATCH))
    assert logits.requires_grad  # the graph lives: no storage was freed and counted for another
    real = sum(nbytes for address, nbytes in storages.items() if address not in weights)
    assert sum(part.kept_bytes for part in parts_of().values()) == real


def test_half_precision_keeps_about_half():
    full, half = (
        sum(part.kept_bytes for part in parts_of(dtype=dtype).values())
        for dtype in (None, torch.bfloat16)
    )
    assert 0.45 * full < half < 0.65 * full


def test_the_paper_network_at_its_patch_trains_on_five_teraflop_without_allocating():
    config = preset("paper")
    (row,) = describe_arms({"paper": config.model}, patch_size=config.data.patch_size, batch_size=2)
    assert row["arm"] == "paper"
    assert row["training_flops"] == pytest.approx(5.0e12, rel=0.02)
    assert row["parameters"] == sum(p.numel() for p in build_model(config.model).parameters())


def test_deeper_arms_cost_more():
    arms = {f"depth {d}": dataclasses.replace(SMALL, mamba_depths=(d, d, d)) for d in (0, 1, 2)}
    rows = describe_arms(arms, patch_size=PATCH)
    assert [row["arm"] for row in rows] == list(arms)
    for key in ("parameters", "forward_flops", "training_flops"):
        assert rows[0][key] < rows[1][key] < rows[2][key]


class Foreign(nn.Module):
    """A network that is none of ours.

    It has a wrapper, a module registered twice, work between its children, and several outputs.
    """

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first_conv, self.heads = nn.Conv3d(4, 8, 1), nn.ModuleList([nn.Conv3d(8, 4, 1)])
            self.alias = nn.Sequential(self.first_conv)

        def forward(self, x):
            x = torch.sigmoid(self.alias(x))
            return [head(x) for head in self.heads]

    def __init__(self):
        super().__init__()
        self.network = Foreign.Inside()

    def forward(self, x):
        return self.network(x)


def test_a_foreign_network_is_described_by_its_children_and_counts_shared_ones_once(monkeypatch):
    monkeypatch.setattr(describe, "build_model", lambda config: Foreign())
    parts = parts_of()
    assert parts["first conv"].parameters == 4 * 8 + 8 and parts["heads 0"].parameters == 8 * 4 + 4
    assert sum(part.parameters for part in parts.values()) == 76
    assert sum(part.forward_flops for part in parts.values()) == 2 * VOXELS * (32 + 32)
    assert parts["heads 0"].output == (BATCH, 4, *PATCH)
    # the input and the sigmoid's result
    assert sum(part.kept_bytes for part in parts.values()) == 4 * VOXELS * (4 + 8)
