"""A model as a folder: the weights and config.json of each network, and what is done with their vote.

01/best_metric_model.pth, 01/config.json, 02/..., postprocessing.json
"""

import shutil
from pathlib import Path

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.config.postprocess import FILE_NAME
from segmamba.errors import UserError
from segmamba.files import write_text
from segmamba.inference.checkpoint_files import find_checkpoint
from segmamba.inference.predictor import load_predictor
from segmamba.models.weights import load_checkpoint
from segmamba.training.checkpoint import save_checkpoint

WEIGHTS = "best_metric_model.pth"


def write_folder(folder, checkpoints, postprocessing):
    """Copy the checkpoints, as `load_predictor` takes them, to a model's folder; weights alone, whatever else a file holds."""
    folder = Path(folder)
    for number, path in enumerate(checkpoints, 1):
        weights, config = find_checkpoint(path)
        place = folder / f"{number:02d}"
        place.mkdir(parents=True)
        state = load_checkpoint(weights, "cpu")
        save_checkpoint(state.get("model", state), place / WEIGHTS)
        shutil.copy(config, place / "config.json")
    write_text(folder / FILE_NAME, postprocessing.to_json())
    return folder


def load_folder(folder, device="auto", **options):
    """The Predictor of a folder that holds a model, or one run, at any depth; options are those of `load_predictor`."""
    found = sorted(Path(folder).rglob(WEIGHTS))
    if not found:
        raise UserError(f"{folder}: holds no {WEIGHTS}; it is no model of this package")
    if options.get("postprocessing") is None:
        files = sorted(Path(folder).rglob(FILE_NAME))
        options["postprocessing"] = load_postprocess(files[0]) if files else PostprocessConfig()
    return load_predictor(found, device, **options)
