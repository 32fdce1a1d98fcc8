"""The table of docs/how-to/export.md says of every network what exports, and is true.

Which rows are there is tested with the fast tests; what stands in them with the slow ones, which
export a tiny network of each row.
"""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.inference.export import export_bundle
from segmamba.inference.onnx_file import export_onnx
from segmamba.inference.pt2_file import export_pt2
from segmamba.models import AUTHORS, build_model
from segmamba.models.peers import PEERS
from tests.tiny import TINY

pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
COLUMNS = ("ONNX", "ONNX --dynamic", ".pt2", "bundle")
OURS = {"model.mamba_depths": (0, 0, 1)}
ROWS = {
    "segmamba": OURS,
    "segmamba, scan_order tri": OURS | {"model.scan_order": "tri"},
    "segmamba, mixer mamba2": OURS | {"model.mixer": "mamba2"},
    "segmamba, mixer conv": OURS | {"model.mixer": "conv"},
    "segmamba, mixer none": OURS | {"model.mixer": "none"},
    "segmamba, scan_path snake, morton, hilbert": OURS | {"model.scan_path": "hilbert"},
    "segmamba, depth 0": {"model.mamba_depths": (0, 0, 0)},
    "unet": {"model.name": "unet"},
    "control": {"model.name": "control", "model.base_channels": 8},
    "segmamba_xing": {"model.name": "segmamba_xing"},
    "segmamba_v2": {"model.name": "segmamba_v2"},
    "umamba_bot": {"model.name": "umamba_bot"},
    "umamba_enc": {"model.name": "umamba_enc"},
    "dynunet": {"model.name": "dynunet"},
    "segresnet": {"model.name": "segresnet"},
    "swinunetr": {"model.name": "swinunetr"},
    "nnunet_plain": {"model.name": "nnunet_plain"},
    "nnunet_resenc": {"model.name": "nnunet_resenc"},
}
"""What changes in TINY for each row."""


def table() -> dict[str, dict[str, str]]:
    """The table of the page: row to column to what stands there."""
    lines = re.findall(r"^\|(.*)\|$", PAGE.read_text().split("## What exports")[1], re.MULTILINE)
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert tuple(header[1:]) == tuple(f"`{c}`" if "-" in c else c for c in COLUMNS)
    return {row[0].replace("`", ""): dict(zip(COLUMNS, row[1:], strict=True)) for row in rows}


def write_tiny_run(folder, changes):
    name = changes.get("model.name", "segmamba")
    patch = (64, 64, 64) if name in PEERS else (32, 32, 32) if name in AUTHORS else (32, 32, 16)
    config = TINY.changed({"data.patch_size": patch, "model.base_channels": 8, **changes})
    if "umamba" in config.model.name:
        config = config.changed({"model.planned_for": patch})
    torch.manual_seed(0)
    folder.mkdir()
    torch.save(build_model(config.model).state_dict(), folder / "best_metric_model.pth")
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_every_network_mixer_and_path_has_a_row():
    text = " ".join(table())
    hints = get_type_hints(ModelConfig)
    for setting in ("name", "mixer", "scan_path"):
        for value in set(get_args(hints[setting])) - {"mamba", "raster"}:
            assert re.search(rf"\b{value}\b", text), f"model.{setting}={value} has no row"
    assert list(table()) == list(ROWS)
    assert {cell for row in table().values() for cell in row.values()} <= {"yes", "-", "not tried"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_says_is_true(name, tmp_path):
    """A file appears only when it computes what the network computes."""
    if name.startswith("nnunet"):
        pytest.importorskip("dynamic_network_architectures")
    run, said = write_tiny_run(tmp_path / "run", ROWS[name]), table()[name]
    ways = {
        "ONNX": lambda: export_onnx(run, tmp_path / "fixed.onnx"),
        "ONNX --dynamic": lambda: export_onnx(run, tmp_path / "dynamic.onnx", dynamic=True),
        ".pt2": lambda: export_pt2(run, tmp_path / "net.pt2"),
        "bundle": lambda: export_bundle(run, tmp_path / "bundle"),
    }
    for column, way in ways.items():
        if said[column] == "yes":
            way()
        elif said[column] == "-":
            with pytest.raises(UserError):
                way()
