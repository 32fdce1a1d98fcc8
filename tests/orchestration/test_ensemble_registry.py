"""A registered ensemble: what is stored, what it predicts, who is champion."""

import os
import subprocess
import sys

import mlflow
import nibabel
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from segmamba.config import PostprocessConfig, preset
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from segmamba.orchestration.ensembles.folder import load_folder
from segmamba.orchestration.ensembles.registry import ALIAS, NAME, fetch_model, register_ensemble
from segmamba.orchestration.tracking.store import as_default, open_store, store_uri
from segmamba.training.run_folder import RunFolder

SMALL = preset("demo").changed({"model.base_channels": 4, "data.patch_size": (16, 16, 16), "data.spacing_mm": 3.0})
POSTPROCESSING = PostprocessConfig(thresholds=(0.25, 0.3, 0.35), min_component_voxels=(0, 0, 30))


@pytest.fixture
def members(tmp_path):
    """Two untrained networks of different patch sizes and scans, as run folders."""
    runs = []
    for seed, changes in enumerate(({"model.scan": "sequential"}, {"data.patch_size": (32, 16, 16), "model.scan": "portable"})):
        config = SMALL.changed(changes)
        run = RunFolder(tmp_path / f"run{seed}")
        run.write_config(config)
        torch.manual_seed(seed)
        torch.save(build_model(config.model).state_dict(), run.best)
        runs.append(run.root)
    return runs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(address, experiment, results): one for all tests, since making the database takes seconds; each test has minival cases of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        results = tmp_path_factory.mktemp("Results")
        uri = store_uri(results)
        yield uri, open_store(uri, results), results


def new_run(store):
    return MlflowClient(store[0]).create_run(store[1]).info.run_id


def test_a_registered_ensemble_read_back_predicts_what_its_members_do(store, members, cases_folder):
    _, champion = register_ensemble(store[0], new_run(store), members, POSTPROCESSING, (["read back"], 0.5))
    assert champion
    with as_default(store[0]):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
    scan = read_scan(find_cases(cases_folder)[0])
    expected = load_predictor(members, "cpu", postprocessing=POSTPROCESSING).predict(scan)
    params = {"spacing_mm": list(scan.spacing_mm)}
    predicted = model.predict(scan.image[None], params=params)
    assert predicted.dtype == np.uint8 and predicted.shape == (1, *scan.image.shape[1:])
    assert expected.any() and (predicted[0] == expected).all()
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 4, -1, -1, -1), "any volume, not just the first one's"
    assert model.predict(scan.image[None, :, :32, :40, :24], params=params).shape == (1, 32, 40, 24)


def test_what_is_stored_holds_weights_and_settings_but_no_pickled_code(store, members, tmp_path):
    register_ensemble(store[0], new_run(store), members, POSTPROCESSING, (["stored"], 0.5))
    folder = fetch_model(f"models:/{NAME}@{ALIAS}", store[0], tmp_path / "fetched")
    assert not list(folder.rglob("*.pkl"))
    for file in folder.rglob("*.pth"):
        torch.load(file, weights_only=True)
    assert load_folder(folder, "cpu").postprocessing == POSTPROCESSING and len(load_folder(folder, "cpu")) == 2


def test_the_champion_is_who_scores_best_on_the_same_minival(store, members):
    minivals = (["a", "b"], 0.5), (["a", "b"], 0.4), (["a", "b"], 0.6), (["c"], 0.1), (["c"], 0.0)
    told = [register_ensemble(store[0], new_run(store), members, POSTPROCESSING, minival) for minival in minivals]
    assert [champion for _, champion in told] == [True, False, True, True, False]
    assert MlflowClient(store[0]).get_model_version_by_alias(NAME, ALIAS).version == told[3][0]


def test_a_run_that_registers_again_after_a_kill_has_one_version_and_is_still_champion(store, members):
    run = new_run(store)
    told = [register_ensemble(store[0], run, members, POSTPROCESSING, (["once"], 0.1999999)) for _ in range(2)]
    assert told[0] == told[1] and told[0][1]
    assert len(MlflowClient(store[0]).search_model_versions(f"run_id = '{run}'")) == 1


def test_an_address_that_is_not_there_is_one_line(store, tmp_path):
    with pytest.raises(UserError, match="--model models:/segmamba-ensemble@nobody"):
        fetch_model("models:/segmamba-ensemble@nobody", store[0], tmp_path)


def test_predict_takes_the_registered_model(store, members, cases_folder, tmp_path):
    register_ensemble(store[0], new_run(store), members, POSTPROCESSING, (["taken"], 0.5))
    code = "from segmamba.cli import main; main()"
    options = ["--model", f"models:/{NAME}@{ALIAS}", "--input", cases_folder, "--output", tmp_path / "out", "--results", store[2]]
    done = subprocess.run([sys.executable, "-c", code, "predict", *map(str, options)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "2 networks" in done.stderr, done.stderr
    case = find_cases(cases_folder)[0]
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / f"{case.id}.nii.gz"))
    expected = load_predictor(members, "cpu", postprocessing=POSTPROCESSING).predict(read_scan(case))
    assert ((np.asarray(written.dataobj) > 0) == (expected > 0)).all()


def test_the_default_store_and_the_environment_are_as_before(tmp_path, monkeypatch):
    for before in (None, "sqlite:///mine.db"):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if before:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
        with as_default(f"sqlite:///{tmp_path / 'other.db'}"):
            assert mlflow.get_tracking_uri().endswith("other.db")
        assert os.environ.get("MLFLOW_TRACKING_URI") == before
