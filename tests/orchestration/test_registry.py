"""Registered models: what is stored, what it predicts, and which version is the champion."""

import dataclasses
import os
import sys

import mlflow
import nibabel
import numpy as np
import pytest
import torch

from segmamba.config import PostprocessConfig, preset
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from segmamba.orchestration.ensemble_study import NAME, register_ensemble
from segmamba.orchestration.tracking.model_folder import load_folder
from segmamba.orchestration.tracking.registry import ALIAS, Networks, fetch_model, register_best
from segmamba.orchestration.tracking.store import as_default, open_store
from segmamba.studies.champion import champion_words
from segmamba.studies.verdict import verdict
from segmamba.training.run_folder import RunFolder
from tests import warm
from tests.studies.synthetic import synthetic_study

SMALL = preset("demo").changed(
    {"model.base_channels": 4, "data.patch_size": (16, 16, 16), "data.spacing_mm": 3.0}
)
POSTPROCESSING = PostprocessConfig(thresholds=(0.25, 0.3, 0.35), min_component_voxels=(0, 0, 30))


@pytest.fixture
def members(tmp_path):
    """Two untrained networks of different patch sizes and scans, as run folders."""
    runs = []
    for seed, changes in enumerate(
        ({"model.scan": "sequential"}, {"data.patch_size": (32, 16, 16), "model.scan": "portable"})
    ):
        config = SMALL.changed(changes)
        run = RunFolder(tmp_path / f"run{seed}")
        run.write_config(config)
        torch.manual_seed(seed)
        torch.save(build_model(config.model).state_dict(), run.best)
        runs.append(run.root)
    return runs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """(Store, results): one for all tests, each of which has validation cases of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        results = tmp_path_factory.mktemp("Results")
        yield open_store(results), results


def new_run(store):
    return store[0].create_run("run", {})


def test_a_registered_ensemble_read_back_predicts_what_its_members_do(store, members, cases_folder):
    _, champion = register_ensemble(
        store[0], new_run(store), Networks(members, POSTPROCESSING), (["read back"], 0.5)
    )
    assert champion
    with as_default(store[0].uri):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
    scan = read_scan(find_cases(cases_folder)[0])
    expected = load_predictor(members, "cpu", postprocessing=POSTPROCESSING).predict(scan)
    params = {"spacing_mm": list(scan.spacing_mm)}
    predicted = model.predict(scan.image[None], params=params)
    assert predicted.dtype == np.uint8 and predicted.shape == (1, *scan.image.shape[1:])
    assert expected.any() and (predicted[0] == expected).all()
    assert "(B, 4, x, y, z)" in model.metadata.metadata["input"]
    assert model.predict(scan.image[None, :, :32, :40, :24], params=params).shape == (1, 32, 40, 24)


def test_a_registered_model_takes_a_folder_a_case_a_file_or_an_array(store, members, cases_folder):
    register_members(store, members)
    with as_default(store[0].uri):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
    networks = load_predictor(members, "cpu", postprocessing=POSTPROCESSING)
    cases = find_cases(cases_folder)
    expected = {case.id: networks.predict(read_scan(case)) for case in cases}
    first, second = cases[0], cases[1]
    first.label.write_bytes(b"no image")  # nothing of the truth is read
    folder, file = cases_folder / first.id, first.images["FLAIR"]
    for given, ids in (
        (str(cases_folder), list(expected)),
        (cases_folder, list(expected)),
        (str(folder), [first.id]),
        (str(file), [first.id]),
        ([folder, cases_folder / second.id], [first.id, second.id]),
        (np.array([str(folder)]), [first.id]),
    ):
        predicted = model.predict(given)
        assert list(predicted) == ids, given
        for name, classes in predicted.items():
            assert classes.dtype == np.uint8 and (classes == expected[name]).all()
    image = read_scan(second).image
    alone = model.predict(image)
    assert alone.shape == image.shape[1:] and (alone == expected[second.id]).all()


def test_what_a_registered_model_cannot_take_is_one_line(store, members, cases_folder, tmp_path):
    register_members(store, members)
    with as_default(store[0].uri):
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
    (tmp_path / "empty").mkdir()
    for given, said in (
        (str(tmp_path / "nowhere"), "no such folder"),
        (str(tmp_path / "empty"), "no BraTS case found"),
        ([str(cases_folder), str(cases_folder)], "2 cases have this id"),
        (np.zeros((1, 3, 16, 16, 16)), "(1, 3, 16, 16, 16)"),
        (np.zeros((16, 16)), "(16, 16)"),
        (np.full((4, 16, 16, 16), np.nan), "NaN"),
        ({"a": 1}, "dict"),
        (None, "got ()"),
    ):
        with pytest.raises(UserError) as raised:
            model.predict(given)
        assert said in str(raised.value), str(raised.value)


def study_of(store, member, name):
    """A Study called `name` whose best trial is a member, with an MLflow run of its own."""
    study = synthetic_study(seeds=1)
    trials = [
        dataclasses.replace(t, metrics=t.metrics | {"val/best_dice_mean": 0.1})
        for t in study.trials
    ]
    trials[1] = dataclasses.replace(
        trials[1],
        run_id=new_run(store),
        folder=str(member),
        metrics=trials[1].metrics | {"val/best_dice_mean": 0.9},
    )
    return dataclasses.replace(study, name=f"{name}_Run01", trials=tuple(trials))


PREDICT = """
import sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
images = np.load(sys.argv[3])
model = mlflow.pyfunc.load_model(sys.argv[2])
np.save(sys.argv[4], model.predict(images, params={"spacing_mm": [1.0, 1.0, 1.0]}))
"""


@pytest.mark.parametrize("postprocessing", [None, POSTPROCESSING], ids=["plain", "tuned"])
def test_a_studys_best_read_back_in_a_process_of_its_own_predicts_what_its_checkpoint_does(
    store, members, cases_folder, tmp_path, postprocessing
):
    name = "tuned" if postprocessing else "plain"
    if postprocessing:
        (members[0] / "postprocessing.json").write_text(postprocessing.to_json())
    study = study_of(store, members[0], name)
    versions = [
        register_best(store[0], study) for _ in range(2)
    ]  # as a study does that was killed after it had registered
    assert int(versions[0].version) == int(versions[1].version) == 1
    assert (
        versions[0].run_id == study.trials[1].run_id
        and versions[0].tags["arm"] == study.trials[1].arm
    )
    described = store[0].client.get_model_version(f"segmamba-{name}", "1").description
    for words in (
        champion_words(study).partition(".")[0],
        "best single run",
        f"The study's verdict: {verdict(study).answer.capitalize()}",
        "Data: data/brats2023",
    ):
        assert words in described, described
    model = store[0].client.get_registered_model(f"segmamba-{name}").description
    assert study.question in model and "runs the code that is stored" in model
    scan = read_scan(find_cases(cases_folder)[0])
    np.save(tmp_path / "images.npy", scan.image[None])
    arguments = [
        store[0].uri,
        f"models:/segmamba-{name}@{ALIAS}",
        tmp_path / "images.npy",
        tmp_path / "classes.npy",
    ]
    done = warm.run([sys.executable, "-c", PREDICT, *arguments], cwd=tmp_path)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    expected = load_predictor(members[0], "cpu").predict(scan)
    assert (
        scan.spacing_mm == (1.0, 1.0, 1.0)
        and expected.any()
        and (np.load(tmp_path / "classes.npy")[0] == expected).all()
    )


def test_a_study_without_a_checkpoint_to_register_registers_nothing(store, tmp_path):
    assert register_best(store[0], study_of(store, tmp_path / "elsewhere", "nothing")) is None
    assert not store[0].client.search_registered_models("name = 'segmamba-nothing'")


def register_study(store, members):
    """One network registered as a study's best: (its address, members, post-processing)."""
    register_best(store[0], study_of(store, members[0], "best"))
    return f"models:/segmamba-best@{ALIAS}", members[:1], PostprocessConfig()


def register_members(store, members):
    """An ensemble, likewise."""
    register_ensemble(
        store[0], new_run(store), Networks(members, POSTPROCESSING), ([new_run(store)], 0.5)
    )
    return f"models:/{NAME}@{ALIAS}", members, POSTPROCESSING


BOTH = pytest.mark.parametrize("register", [register_study, register_members])


@BOTH
def test_what_is_stored_holds_weights_and_settings_but_no_pickled_code(
    store, members, tmp_path, register, recwarn
):
    address, stored, postprocessing = register(store, members)
    assert not [warning for warning in recwarn if warning.category is UserWarning], (
        "nothing of MLflow's on the terminal"
    )
    folder = fetch_model(address, store[0].uri, tmp_path / "fetched")
    assert not list(folder.rglob("*.pkl")) and (folder / "MLmodel").is_file()
    for file in folder.rglob("*.pth"):
        torch.load(file, weights_only=True)
    assert load_folder(folder, "cpu").postprocessing == postprocessing and len(
        load_folder(folder, "cpu")
    ) == len(stored)


def test_the_champion_is_who_scores_best_on_the_same_validation(store, members):
    validations = (
        (["a", "b"], 0.5),
        (["a", "b"], 0.4),
        (["a", "b"], 0.6),
        (["c"], 0.1),
        (["c"], 0.0),
    )
    told = [
        register_ensemble(store[0], new_run(store), Networks(members, POSTPROCESSING), validation)
        for validation in validations
    ]
    assert [champion for _, champion in told] == [True, False, True, True, False]
    assert store[0].client.get_model_version_by_alias(NAME, ALIAS).version == told[3][0]


def test_a_run_that_registers_again_after_a_kill_has_one_version_and_is_still_champion(
    store, members
):
    run = new_run(store)
    told = [
        register_ensemble(store[0], run, Networks(members, POSTPROCESSING), (["once"], 0.1999999))
        for _ in range(2)
    ]
    assert told[0] == told[1] and told[0][1]
    assert len(store[0].client.search_model_versions(f"run_id = '{run}'")) == 1


def test_an_address_that_is_not_there_is_one_line(store, tmp_path):
    with pytest.raises(UserError, match="--model models:/segmamba-ensemble@nobody"):
        fetch_model("models:/segmamba-ensemble@nobody", store[0].uri, tmp_path)


@BOTH
def test_predict_takes_the_registered_model(store, members, cases_folder, tmp_path, register):
    address, stored, postprocessing = register(store, members)
    code = "from segmamba.cli import main; main()"
    options = [
        "--model",
        address,
        "--input",
        cases_folder,
        "--output",
        tmp_path / "out",
        "--store",
        store[1],
    ]
    done = warm.run([sys.executable, "-c", code, "predict", *options])
    assert done.returncode == 0 and ("one network", "2 networks")[len(stored) - 1] in done.stderr, (
        done.stderr
    )
    case = find_cases(cases_folder)[0]
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / f"{case.id}.nii.gz"))
    expected = load_predictor(stored, "cpu", postprocessing=postprocessing).predict(read_scan(case))
    assert ((np.asarray(written.dataobj) > 0) == (expected > 0)).all()


def test_the_default_store_and_the_environment_are_as_before(tmp_path, monkeypatch):
    for before in (None, "sqlite:///mine.db"):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        if before:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", before)
        with as_default(f"sqlite:///{tmp_path / 'other.db'}"):
            assert mlflow.get_tracking_uri().endswith("other.db")
        assert os.environ.get("MLFLOW_TRACKING_URI") == before
