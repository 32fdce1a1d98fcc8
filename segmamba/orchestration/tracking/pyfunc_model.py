"""The code of a registered model, which MLflow keeps beside the weights and runs to load them.

Loading a model of MLflow's pyfunc kind runs such code: load only models whose origin you trust. No
pickle is involved.

    model = mlflow.pyfunc.load_model("models:/segmamba-ablate_depth@champion")
    model.predict("/path/to/cases")  # a folder of cases, or one case: {case id: uint8 (x, y, z)}
    model.predict(images, params={"spacing_mm": [1.0, 1.0, 1.0]})  # an array: uint8 (B, x, y, z)

images: float32 (B, 4, x, y, z), or one case without B: T1, T1ce, T2, FLAIR as scanned, 0 outside
the brain, with x to the right, y to the front and z upwards. Files are brought to that order, and
what is returned has it.
The values are places in the classes that `model.classes` of the networks' config.json names, for
glioma 0 background, 1 NCR, 2 ED, 3 ET; after the vote and its post-processing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from segmamba.data.case import Case
from segmamba.data.cases import MIXED, find_cases
from segmamba.data.labels import MODALITIES
from segmamba.data.volumes import Scan, read_scan
from segmamba.errors import UserError
from segmamba.orchestration.tracking.model_folder import load_folder


class SegmentationModel(PythonModel):
    """Loads the networks with `weights_only=True` onto the first GPU, where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the networks that MLflow keeps beside this file."""
        self.predictor = load_folder(context.artifacts["networks"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,  # or paths: MLflow warns of every hint that says so
        params: dict[str, Any] | None = None,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Segment images, or the cases of files.

        Args:
            context: MLflow's; not used.
            model_input: An array as the head of this file has it; or the path of a folder of cases
                in any layout that `segmamba predict` takes, of one case's folder, or of one of a
                case's files; or several paths.
            params: {"spacing_mm": three sides of a voxel} of an array; 1 mm where it is missing.
                Files have their own.

        Returns:
            Of an array uint8 (B, x, y, z), without B where it had none; of paths a dict of case id
            to uint8 (x, y, z).

        Raises:
            UserError: The input is neither, a case is faulty, or two have the same id.
        """
        paths = _paths(model_input)
        if paths:
            return self._of_files(paths)
        images = _images(model_input)
        spacing_mm = tuple(
            float(side) for side in (params or {}).get("spacing_mm", (1.0, 1.0, 1.0))
        )
        affine = np.diag([*spacing_mm, 1.0])
        batch = images if images.ndim == 5 else images[None]
        found = [self.predictor.predict(Scan(image, None, affine, spacing_mm)) for image in batch]
        return np.stack(found) if images.ndim == 5 else found[0]

    def _of_files(self, paths: Sequence[Path]) -> dict[str, np.ndarray]:
        cases = [case for path in paths for case in _cases(path, self.predictor.missing)]
        counted = Counter(case.id for case in cases)
        for name, times in counted.items():
            if times > 1:
                raise UserError(f"{name}: {times} cases have this id; predict them one by one")
        return {case.id: self.predictor.predict(read_scan(case)) for case in cases}


def _paths(model_input: Any) -> list[Path]:
    """The paths that an input names; none where it is an array."""
    named = model_input
    if isinstance(model_input, np.ndarray) and model_input.dtype.kind in "UO":
        named = model_input.ravel().tolist()
    several = named if isinstance(named, (list, tuple)) else [named]
    are_paths = all(isinstance(one, (str, PathLike)) for one in several)
    return [Path(one) for one in several] if are_paths else []


def _cases(path: Path, missing: str) -> list[Case]:
    """The cases of a folder, or the one that a file belongs to; without their segmentations."""
    alone = path.is_file() and path.suffix != ".json"
    cases = find_cases(path.parent if alone else path, MIXED, missing=missing)
    if alone:
        cases = [case for case in cases if path.resolve() in {f.resolve() for f in case.files}]
        if not cases:
            raise UserError(f"{path}: no case uses this file; give the folder of the case")
    return [replace(case, label=None) for case in cases]


def _images(model_input: Any) -> np.ndarray:
    """An array as float32, its shape checked."""
    try:
        images = np.asarray(model_input, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"predict takes an array or paths, and got {type(model_input).__name__}"
        ) from error
    if images.ndim not in (4, 5) or images.shape[-4] != len(MODALITIES) or not images.size:
        raise UserError(
            "predict takes arrays of shape (B, 4, x, y, z) or (4, x, y, z) with channels "
            f"{', '.join(MODALITIES)}, and got {images.shape}"
        )
    if not np.isfinite(images).all():
        raise UserError("predict: the images hold NaN or infinity; replace them, for example by 0")
    return images


set_model(SegmentationModel())
