"""A model as a folder: weights and config.json of each network, and what is done with their vote.

01/best_metric_model.pth, 01/config.json, 02/..., postprocessing.json
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.config.postprocess import FILE_NAME
from segmamba.errors import UserError
from segmamba.files import write_text
from segmamba.inference.checkpoint_files import find_checkpoint
from segmamba.inference.predictor import Predictor, load_predictor
from segmamba.models.weights import load_network
from segmamba.training.checkpoint import save_checkpoint

WEIGHTS = "best_metric_model.pth"


def write_folder(
    folder: Path, checkpoints: Sequence[Path], postprocessing: PostprocessConfig
) -> Path:
    """Copy networks to a model's folder, their weights alone, whatever else a file holds.

    Args:
        folder: Of the model; it must not hold one yet.
        checkpoints: As `load_predictor` takes them.
        postprocessing: What is done with their vote.
    """
    for number, path in enumerate(checkpoints, 1):
        weights, config = find_checkpoint(path)
        place = folder / f"{number:02d}"
        place.mkdir(parents=True)
        save_checkpoint(load_network(weights).tensors, place / WEIGHTS)
        shutil.copy(config, place / "config.json")
    write_text(folder / FILE_NAME, postprocessing.to_json())
    return folder


def load_folder(folder: str | Path, device: str = "auto", **options: Any) -> Predictor:
    """Return the Predictor of a folder that holds a model, or one run, at any depth.

    Args:
        folder: As `write_folder` wrote it.
        device: "auto", "cpu", "cuda" or "cuda:1".
        **options: As `load_predictor` takes them.

    Raises:
        UserError: The folder holds no weights.
    """
    weights = sorted(Path(folder).rglob(WEIGHTS))
    if not weights:
        raise UserError(f"{folder}: holds no {WEIGHTS}; it is no model of this package")
    if options.get("postprocessing") is None:
        files = sorted(Path(folder).rglob(FILE_NAME))
        options["postprocessing"] = load_postprocess(files[0]) if files else PostprocessConfig()
    return load_predictor(weights, device, **options)
