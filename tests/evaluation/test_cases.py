import dataclasses

import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.preprocess import prepare_cases
from segmamba.evaluation.cases import (
    evaluate,
    make_predictor,
    means,
    prepared_scan,
    validate,
)
from segmamba.evaluation.dice import dice
from tests.conftest import write_case
from tests.evaluation.scorers import hd95_mm
from tests.tiny import CPU, TINY

COARSE = TINY.changed({"data.spacing_mm": 2.0})


class Thresholds(torch.nn.Module):
    """Every voxel whose T1ce exceeds a threshold is enhancing tumour."""

    def forward(self, x):
        logits = torch.zeros(x.shape[0], 4, *x.shape[2:])
        logits[:, 3] = 20 * (x[:, 1] - 1)
        return logits


def predicted(case):
    """The class numbers that the test scores."""
    return make_predictor(Thresholds(), COARSE, CPU).predict(prepared_scan(case, COARSE))


@pytest.fixture
def case(tmp_path):
    """An anisotropic case whose working grid differs from its own."""
    write_case(tmp_path / "data", "X", shape=(48, 56, 32), affine=np.diag([-1.0, -1.0, 1.5, 1.0]))
    (prepared,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", COARSE.data)
    return prepared


def test_the_test_scores_on_the_sources_grid_with_its_spacing_and_labels(case):
    (row,) = evaluate(Thresholds(), [case], COARSE, CPU)
    prediction, truth = (
        predicted(case),
        np.array(case.source_label()),
    )
    assert prediction.shape == truth.shape == (48, 56, 32)
    assert {name: row[f"dice_{name}"] for name in ("ET", "TC", "WT", "mean")} == dice(
        prediction, truth, GLIOMA
    )
    assert (
        row["hd95_mm_WT"]
        == hd95_mm(prediction, truth, (1.0, 1.0, 1.5), GLIOMA)["WT"]
        != hd95_mm(prediction, truth, (1.0, 1.0, 1.0), GLIOMA)["WT"]
    )


def test_probabilities_are_interpolated_so_that_outlines_fall_between_coarse_voxels(case):
    prediction = predicted(case)
    pairs = prediction.reshape(24, 2, 28, 2, 32)
    assert (pairs != pairs[:, :1, :, :1]).any(), (
        "copying each coarse voxel would make all blocks of 2x2 alike"
    )


def test_validation_scores_on_the_working_grid(case):
    (row,) = validate(Thresholds(), [case], COARSE, CPU)
    assert row["case"] == "X" and 0 < row["dice_WT"] < 1 and "hd95_mm_WT" not in row


def test_means_are_over_cases():
    rows = [{"case": "a", "dice_mean": 0.2}, {"case": "b", "dice_mean": 0.6}]
    assert means(rows, "val") == {"val/dice_mean": pytest.approx(0.4)}


def test_evaluation_leaves_the_network_in_eval_mode_and_repeats(case):
    model = Thresholds().train()
    first = evaluate(model, [case], dataclasses.replace(COARSE), CPU)
    assert not model.training and evaluate(model, [case], COARSE, CPU) == first


def test_the_test_takes_test_time_options_and_post_processing_and_validation_neither(case):
    """Validation compares epochs: what the test does beyond that would only make it slower."""
    coarser = COARSE.changed({"inference.scales": (0.5,)})
    emptied = COARSE.changed({"postprocess.min_component_voxels": (10**6, 10**6, 10**6)})
    (plain,) = evaluate(Thresholds(), [case], COARSE, CPU)
    assert evaluate(Thresholds(), [case], coarser, CPU)[0]["dice_mean"] != plain["dice_mean"]
    assert evaluate(Thresholds(), [case], emptied, CPU)[0]["dice_mean"] == 0 < plain["dice_mean"]
    assert (
        validate(Thresholds(), [case], COARSE, CPU)
        == validate(Thresholds(), [case], coarser, CPU)
        == validate(Thresholds(), [case], emptied, CPU)
    )
