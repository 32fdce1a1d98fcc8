"""Which files belong to a checkpoint."""

from pathlib import Path

from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.errors import UserError

WEIGHTS_FILE = "best_metric_model.pth"
CONFIG_FILE = "config.json"


def find_checkpoint(path: str | Path) -> tuple[Path, Path]:
    """Find the weights and the configuration of a checkpoint.

    Args:
        path: A run's folder, a folder that holds both files, or a weights file with config.json
            beside it or in the folder above.

    Returns:
        The weights file and its config.json.

    Raises:
        UserError: One of the two is missing.
    """
    weights = find_weights(path)
    if config := find_beside(weights, CONFIG_FILE):
        return weights, config
    raise UserError(
        f"{weights}: no {CONFIG_FILE} beside it or in the folder above; copy the one of its run "
        "there"
    )


def find_weights(path: str | Path) -> Path:
    """Find the weights of a checkpoint, which released ones have alone.

    Args:
        path: A run's folder, a folder that holds the file, or a weights file.

    Returns:
        The weights file.

    Raises:
        UserError: It is missing.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{path}: no such checkpoint; give a run's folder or its checkpoints/{WEIGHTS_FILE}"
        )
    candidates = (folder / WEIGHTS_FILE for folder in (path / "checkpoints", path))
    weights = next((file for file in candidates if file.is_file()), None)
    if weights is None:
        raise UserError(
            f"{path}: holds no checkpoints/{WEIGHTS_FILE}; give a run's folder or a checkpoint file"
        )
    return weights


def find_beside(weights: Path, name: str) -> Path | None:
    """Find a file that belongs to weights: beside them, or in the folder above."""
    candidates = (folder / name for folder in (weights.parent, weights.parent.parent))
    return next((file for file in candidates if file.is_file()), None)


def postprocess_file(path: str | Path) -> Path | None:
    """Find the post-processing that was chosen for a checkpoint.

    Args:
        path: A checkpoint, as `find_weights` takes it.

    Returns:
        The postprocessing.json beside its weights or its config.json; None where there is none.

    Raises:
        UserError: The checkpoint is missing.
    """
    weights = find_weights(path)
    beside = weights.with_name(POSTPROCESS_FILE)
    if beside.is_file():
        return beside
    config = find_beside(weights, CONFIG_FILE)
    with_config = config.with_name(POSTPROCESS_FILE) if config else None
    return with_config if with_config and with_config.is_file() else None
