"""Configurations read from the files that a run leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmamba.config.postprocess import PostprocessConfig
from segmamba.config.tree import Config
from segmamba.errors import UserError
from segmamba.json_files import read_json

# Settings of configurations that were written before 0.2. Their "test" is today's holdout.
RENAMED = {
    "data.minival_cases": "data.validation_cases",
    "data.minival_share": "data.validation_share",
    "data.judge_cases": "data.test_cases",
    "data.judge_share": "data.test_share",
    "data.test_share": "data.holdout_share",
    "data.test_file": "data.holdout_file",
    "train.judge_last": "train.test_last",
}
WRITTEN_WITHOUT_CLASSES = {"model.classes": "glioma"}  # all networks had its three classes
WRITTEN_BEFORE_0_2 = "data.minival_share"  # every such configuration has it, and no later one


def load_config(path: Path | str) -> Config:
    """Read a run's config.json, also one that was written before 0.2.

    Args:
        path: The file.

    Returns:
        The configuration; what the file does not name has its default.

    Raises:
        UserError: The file cannot be read, or names an unknown field or a wrong value.
    """
    tree = read_json(path, dict[str, Any], fix="give a config.json written by a run")
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{leaf}": entry for leaf, entry in value.items()}
        else:
            flat[name] = value
    if WRITTEN_BEFORE_0_2 in flat:
        flat = {RENAMED.get(name, name): value for name, value in flat.items()}
    return _changed(path, flat_as_stored(flat))


def flat_as_stored(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a stored configuration by what its settings were before they had names.

    Args:
        flat: Values by dotted name, as any version stored them.

    Returns:
        The same with every setting of this version.
    """
    return Config().to_flat_dict() | WRITTEN_WITHOUT_CLASSES | dict(flat)


def load_postprocess(path: Path | str) -> PostprocessConfig:
    """Read a postprocessing.json.

    Args:
        path: The file.

    Returns:
        The post-processing; what the file does not name is off.

    Raises:
        UserError: The file cannot be read, or names an unknown field or a wrong value.
    """
    tree = read_json(path, dict[str, Any], fix="give a postprocessing.json")
    return _changed(
        path, {f"postprocess.{name}": value for name, value in tree.items()}
    ).postprocess


def _changed(path: Path | str, flat: dict[str, Any]) -> Config:
    try:
        return Config().changed(flat)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
