import numpy as np
import torch

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.evaluation.cases import predict_classes
from tests.conftest import write_case


class BrightIsEnhancing(torch.nn.Module):
    """Says ET wherever the first modality is not zero, else background."""

    def forward(self, image):
        logits = torch.zeros(len(image), 4, *image.shape[2:])
        logits[:, 3] = torch.where(image[:, 0] != 0, 10.0, -10.0)
        return logits


def predicted_and_scan(tmp_path, spacing_mm):
    write_case(tmp_path / "data", "X", shape=(48, 40, 36))
    config = preset("demo").changed({"data.spacing_mm": spacing_mm, "data.patch_size": (16, 16, 16)})
    (case,) = find_cases(tmp_path / "data")
    (prepared,) = prepare_cases([case], tmp_path / "cache", config.data)
    return predict_classes(BrightIsEnhancing(), prepared, config, torch.device("cpu")), read_scan(case)


def test_a_prediction_lies_on_the_sources_grid_with_background_where_the_brain_was_cut_out(tmp_path):
    prediction, scan = predicted_and_scan(tmp_path, 1.0)
    assert ((prediction == 3) == (scan.image[0] != 0)).all() and (prediction[scan.image[0] == 0] == 0).all()


def test_a_resampled_prediction_lies_on_the_sources_grid_too(tmp_path):
    prediction, scan = predicted_and_scan(tmp_path, 2.0)
    assert prediction.shape == scan.label.shape
    assert np.mean((prediction == 3) == (scan.image[0] != 0)) > 0.98
