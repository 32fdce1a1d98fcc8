"""predictions.json, and that a folder holds no prediction that it does not describe."""

import json
import shutil

import nibabel
import numpy as np
import pytest

from segmamba.commands.predict import run_prediction
from segmamba.errors import UserError
from segmamba.evaluation.folders import match
from segmamba.inference.outputs import Outputs
from segmamba.inference.predictor import load_predictor
from segmamba.inference.record import UNFINISHED
from tests.conftest import BRATS_AFFINE, tumour_case, write_case
from tests.inference.conftest import write_run


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_predictor([write_run(tmp_path_factory.mktemp("run"), 0)[0]], "cpu")


@pytest.fixture
def two(tmp_path):
    for name in "AB":
        write_case(tmp_path / "data", name, shape=(36, 32, 24))
    return tmp_path / "data"


def predict(predictor, data, out, *, names=("run",), **options):
    return run_prediction(predictor, data, "auto", Outputs(out, **options), names, as_json=False)


def test_a_case_that_fails_leaves_no_earlier_prediction_to_be_scored(predictor, two, tmp_path):
    out = tmp_path / "out"
    assert predict(predictor, two, out, overlay=True) == 0
    (two / "B" / "B_t1.nii.gz").write_bytes(b"")
    assert predict(predictor, two, out, overlay=True) == 2
    assert [path.name for path in out.glob("*.nii.gz")] == ["A.nii.gz"]
    assert [path.name for path in (out / "overlays").iterdir()] == ["A.png"]
    with pytest.raises(UserError, match="1 of 2 cases have no prediction"):
        match(out, two)


def test_skipped_files_are_never_said_to_have_other_values(predictor, two, tmp_path):
    out = tmp_path / "out"
    predict(predictor, two, out, labels="brats2018")
    known = json.loads((out / "predictions.json").read_text())["cases"][0]
    (out / "B.nii.gz").unlink()
    with pytest.raises(UserError, match=r"with other --labels \(brats2018; now msd\)"):
        predict(predictor, two, out, labels="msd", skip_existing=True)
    assert not (out / "B.nii.gz").exists()
    assert predict(predictor, two, out, labels="brats2018", skip_existing=True) == 0
    rows = json.loads((out / "predictions.json").read_text())["cases"]
    assert [(row["state"], row["labels"]) for row in rows] == [
        ("skipped", "brats2018"),
        ("done", "brats2018"),
    ]
    assert rows[0] == known | {"state": "skipped"}, "what is known of the files is kept"


def test_predictions_of_other_networks_are_not_completed(predictor, two, tmp_path):
    predict(predictor, two, tmp_path / "out")
    with pytest.raises(UserError, match=r"with other networks \(run; now another\)"):
        predict(predictor, two, tmp_path / "out", names=("another",), skip_existing=True)


def test_a_stopped_prediction_leaves_files_of_its_own_alone_and_says_their_values(
    predictor, two, tmp_path, monkeypatch
):
    out, analyse = tmp_path / "out", predictor.analyse
    predict(predictor, two, out, labels="brats2018")
    seen = []

    def stopped(scan, **options):
        seen.append(scan)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return analyse(scan, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "analyse", stopped)
        with pytest.raises(KeyboardInterrupt):
            predict(predictor, two, out, labels="msd")
    rows = json.loads((out / "predictions.json").read_text())["cases"]
    assert [(row["state"], row["labels"]) for row in rows] == 2 * [(UNFINISHED, "msd")]
    assert [path.name for path in out.glob("*.nii.gz")] == ["A.nii.gz"]
    assert [pair.pred_labels for pair in match(out, two, missing="skip")[0]] == ["msd"]
    assert predict(predictor, two, out, labels="msd", skip_existing=True) == 0
    rows = json.loads((out / "predictions.json").read_text())["cases"]
    assert [(row["state"], row["labels"]) for row in rows] == [("skipped", "msd"), ("done", "msd")]


def test_a_prediction_never_overwrites_the_files_it_is_made_from(predictor, tmp_path):
    images, classes = tumour_case((36, 32, 24), 0)
    folder = tmp_path / "Task01"
    for place in ("imagesTr", "labelsTr"):
        (folder / place).mkdir(parents=True)
    four = nibabel.Nifti1Image(np.moveaxis(images, 0, -1), BRATS_AFFINE)
    nibabel.save(four, folder / "imagesTr" / "P.nii.gz")
    nibabel.save(nibabel.Nifti1Image(classes, BRATS_AFFINE), folder / "labelsTr" / "P.nii.gz")
    described = {
        "modality": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"},
        "labels": {"0": "background", "1": "NCR", "2": "ED", "4": "ET"},
        "training": [{"image": "./imagesTr/P.nii.gz", "label": "./labelsTr/P.nii.gz"}],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    shutil.copytree(folder, tmp_path / "before")
    for place in ("imagesTr", "labelsTr"):
        with pytest.raises(UserError, match=f"would overwrite .*{place}.*choose another --output"):
            predict(predictor, folder, folder / place)
        kept = (folder / place / "P.nii.gz").read_bytes()
        assert kept == (tmp_path / "before" / place / "P.nii.gz").read_bytes()
