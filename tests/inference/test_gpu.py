"""Prediction on a CUDA device. Run by `make test-gpu`."""

import shutil

import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.evaluation.cases import validate
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from tests.conftest import write_case
from tests.inference.conftest import write_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


# 32: the width of the narrow kernels
@pytest.mark.parametrize("width", [4, 32], ids=lambda w: f"{w} channels")
def test_half_precision_on_the_gpu_gives_the_probabilities_of_the_cpu(case, tmp_path, width):
    folder, _ = write_run(
        tmp_path / "run", **{"model.base_channels": width, "data.patch_size": (32, 32, 64)}
    )
    scan = read_scan(case)
    on_gpu, on_cpu = (load_predictor(folder, name) for name in ("cuda", "cpu"))
    assert torch.allclose(on_gpu.probabilities(scan).cpu(), on_cpu.probabilities(scan), atol=2e-2)
    assert (on_gpu.predict(scan) == on_cpu.predict(scan)).mean() > 0.99


def test_activations_beyond_half_precision_are_computed_again_in_single(case, tmp_path):
    folder, _ = write_run(tmp_path / "run")
    weights = folder / "checkpoints" / "best_metric_model.pth"
    state = torch.load(weights, weights_only=True)
    state["stem.norm2.weight"] *= 1e6  # the stem's output exceeds 65504; the head scales it back
    state["head.weight"] *= 1e-6
    torch.save(state, weights)
    scan = read_scan(case)
    on_gpu, on_cpu = (
        load_predictor(folder, name).probabilities(scan).cpu() for name in ("cuda", "cpu")
    )
    assert on_gpu.isfinite().all() and (on_gpu - on_cpu).abs().mean() < 1e-2


def test_validation_stays_on_the_gpu_between_two_validations(tmp_path):
    _, config = write_run(tmp_path / "run")
    write_case(tmp_path / "data", "X")
    cases = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", config.data)
    model = build_model(config.model).cuda()
    first = validate(model, cases, config, torch.device("cuda"))
    shutil.rmtree(tmp_path / "cache")
    assert validate(model, cases, config, torch.device("cuda")) == first


def test_flips_and_scales_run_on_the_gpu(case, tmp_path):
    folder, _ = write_run(tmp_path / "run")
    scan, changes = (
        read_scan(case),
        {"inference.flips": True, "inference.scales": (1.0, 0.75), "postprocess.crf_steps": 0},
    )
    on_gpu, on_cpu = (
        load_predictor(folder, name, changes=changes).probabilities(scan).cpu().numpy()
        for name in ("cuda", "cpu")
    )
    assert np.allclose(on_gpu, on_cpu, atol=2e-2)
