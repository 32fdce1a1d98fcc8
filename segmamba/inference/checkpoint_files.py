"""Which files belong to a checkpoint."""

from pathlib import Path

from segmamba.config.postprocess import FILE_NAME as POSTPROCESS_FILE
from segmamba.errors import UserError

WEIGHTS_FILE = "best_metric_model.pth"


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
    path = Path(path)
    if path.is_dir():
        candidates = (folder / WEIGHTS_FILE for folder in (path / "checkpoints", path))
        weights = next((file for file in candidates if file.is_file()), None)
        if weights is None:
            raise UserError(
                f"{path}: holds no checkpoints/{WEIGHTS_FILE}; give a run's folder or a checkpoint "
                "file"
            )
    elif path.is_file():
        weights = path
    else:
        raise UserError(
            f"{path}: no such checkpoint; give a run's folder or its checkpoints/{WEIGHTS_FILE}"
        )
    if config := find_beside(weights, "config.json"):
        return weights, config
    raise UserError(
        f"{weights}: no config.json beside it or in the folder above; copy the one of its run there"
    )


def find_beside(weights: Path, name: str) -> Path | None:
    """Find a file that belongs to weights: beside them, or in the folder above."""
    candidates = (folder / name for folder in (weights.parent, weights.parent.parent))
    return next((file for file in candidates if file.is_file()), None)


def postprocess_file(path: str | Path) -> Path | None:
    """Find the post-processing that was chosen for a checkpoint.

    Args:
        path: A checkpoint, as `find_checkpoint` takes it.

    Returns:
        The postprocessing.json beside its weights or its config.json; None where there is none.

    Raises:
        UserError: The checkpoint is missing.
    """
    weights, config = find_checkpoint(path)
    candidates = (folder / POSTPROCESS_FILE for folder in (weights.parent, config.parent))
    return next((file for file in candidates if file.is_file()), None)
