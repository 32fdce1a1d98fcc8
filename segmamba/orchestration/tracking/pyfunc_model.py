"""The code of a registered model, which MLflow keeps beside the weights and runs to load them.

No pickle is involved.

    model = mlflow.pyfunc.load_model("models:/segmamba-ensemble@champion")
    classes = model.predict(images, params={"spacing_mm": [1.0, 1.0, 1.0]})

images: float32 (B, 4, x, y, z): T1, T1ce, T2, FLAIR as scanned, 0 outside the brain, with x to the
right, y to the front and z upwards.
classes: uint8 (B, x, y, z), places in the classes that `model.classes` of the networks' config.json
names, for glioma 0 background, 1 NCR, 2 ED, 3 ET; after the vote and its post-processing.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from segmamba.data.volumes import Scan
from segmamba.orchestration.tracking.model_folder import load_folder


class SegmentationModel(PythonModel):
    """Loads the networks with `weights_only=True` onto the first GPU, where there is one."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the networks that MLflow keeps beside this file."""
        self.predictor = load_folder(context.artifacts["networks"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Segment images.

        Args:
            context: MLflow's; not used.
            model_input: float32 (B, 4, x, y, z), as the head of this file has it.
            params: {"spacing_mm": three sides of a voxel}; 1 mm where it is missing.

        Returns:
            uint8 (B, x, y, z), class numbers.
        """
        spacing_mm = tuple(
            float(side) for side in (params or {}).get("spacing_mm", (1.0, 1.0, 1.0))
        )
        affine = np.diag([*spacing_mm, 1.0])
        return np.stack(
            [
                self.predictor.predict(Scan(np.float32(image), None, affine, spacing_mm))
                for image in model_input
            ]
        )


set_model(SegmentationModel())
