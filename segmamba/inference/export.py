"""A run as a MONAI bundle, which MONAI's own tools load and run.

The network still comes from this package, which the bundle names as required.

    DIR/configs/metadata.json          what the network takes and gives
    DIR/configs/inference.json         cases to segmentations: python -m monai.bundle run
                                       --config_file configs/inference.json --dataset_dir ...
    DIR/models/model.pt                weights
    DIR/models/config.json             the Config that they belong to
    DIR/models/postprocessing.json     what is done to a prediction
    DIR/docs/README.md, DIR/LICENSE
"""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from segmamba.config import PostprocessConfig, load_config, load_postprocess
from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.data.label_sets import AUTO, label_set
from segmamba.data.labels import convention
from segmamba.errors import UserError
from segmamba.inference.bundle import BundleNetwork
from segmamba.inference.bundle_files import inference_config, metadata, readme
from segmamba.inference.checkpoint_files import find_checkpoint, postprocess_file
from segmamba.inference.ensemble_member import load_member
from segmamba.leftovers import folder_beside
from segmamba.models.weights import load_network

LICENCE = Path(__file__).parents[2] / "LICENSE"


def export_bundle(checkpoint: str | Path, folder: str | Path, *, labels: str = AUTO) -> Path:
    """Write the bundle of one checkpoint as a new folder.

    The folder appears when it is complete.

    Args:
        checkpoint: A run's folder or a weights file, as `load_predictor` takes it.
        folder: The folder to make.
        labels: The label convention of the values that the bundle writes; "auto" is the usual one
            of the network's classes: brats2023, brats2024 or brats2024ped.

    Returns:
        The folder.

    Raises:
        UserError: The folder exists, the checkpoint is missing or does not fit its configuration,
            or its post-processing has a CRF, which a bundle cannot run.
    """
    folder = Path(folder)
    if labels != AUTO:
        convention(labels)
    if folder.exists():
        raise UserError(f"--bundle {folder}: exists already; choose another folder or remove it")
    weights, config_file = find_checkpoint(checkpoint)
    config, postprocessing = load_config(config_file), _postprocessing(checkpoint)
    if config.inference.normalise_over != "brain":
        raise UserError(f"{config_file}: a bundle z-scores over the brain; export it with --onnx")
    values = convention(label_set(config.model.classes).convention if labels == AUTO else labels)
    # this refuses weights that do not fit before anything is written
    member = load_member(checkpoint, torch.device("cpu"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as building:
        for name in ("configs", "models", "docs"):
            (building / name).mkdir()
        shutil.copy(config_file, building / "models" / "config.json")
        (building / "models" / POSTPROCESS_FILE).write_text(
            postprocessing.to_json(), encoding="utf-8"
        )
        network = BundleNetwork(config_file)
        network.network.load_state_dict(load_network(weights).tensors)
        torch.save(network.state_dict(), building / "models" / "model.pt")
        _write_json(building / "configs" / "metadata.json", metadata(config, values))
        _write_json(
            building / "configs" / "inference.json", inference_config(member.config, values)
        )
        (building / "docs" / "README.md").write_text(readme(config, values), encoding="utf-8")
        shutil.copy(_licence(), building / "LICENSE")
        building.chmod(0o755)
        building.rename(folder)
    return folder


def _postprocessing(checkpoint: str | Path) -> PostprocessConfig:
    file = postprocess_file(checkpoint)
    postprocessing = load_postprocess(file) if file else PostprocessConfig()
    if postprocessing.crf_steps:
        raise UserError(f"{file}: a bundle has no CRF; export with postprocess.crf_steps 0")
    return postprocessing


def _licence() -> Path:
    """The package's LICENSE, from a checkout or from an installed distribution."""
    if LICENCE.is_file():
        return LICENCE
    files = importlib.metadata.files("segmamba") or []
    return Path(str(next(file.locate() for file in files if file.name == "LICENSE")))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
