"""The code of a registered model, which MLflow keeps beside the weights and runs to load them: no pickle is involved.

    model = mlflow.pyfunc.load_model("models:/segmamba-ensemble@champion")
    classes = model.predict(images, params={"spacing_mm": [1.0, 1.0, 1.0]})

images: float32 (B, 4, x, y, z), T1, T1ce, T2, FLAIR as scanned (0 outside the brain), x to the right, y anterior, z superior.
classes: uint8 (B, x, y, z): 0 background, 1 NCR, 2 ED, 3 ET, after the vote and its post-processing.
"""

import mlflow
import numpy as np
from mlflow.models import set_model

from segmamba.data.volumes import Scan
from segmamba.orchestration.tracking.model_folder import load_folder


class SegmentationModel(mlflow.pyfunc.PythonModel):
    """Loads the networks with plain weights (`weights_only=True`) onto the first GPU, where there is one."""

    def load_context(self, context):
        self.predictor = load_folder(context.artifacts["networks"])

    def predict(self, context, model_input: np.ndarray, params=None):
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
