"""One bad case among good ones: it is named, the others are predicted, the record is complete."""

import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from segmamba.commands.predict import run_prediction
from segmamba.config import DataConfig
from segmamba.data.case import ERROR
from segmamba.data.cases import list_cases
from segmamba.data.check import check_case
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference import folder as pipeline
from segmamba.inference.folder import LOG, predict_cases
from segmamba.inference.outputs import DONE, FAILED, Outputs
from segmamba.inference.predictor import load_predictor
from tests.conftest import tumour_case, write_case
from tests.inference.conftest import write_run
from tests.small_disks import small_disk

SHAPE = (32, 32, 20)
IMAGES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return load_predictor(write_run(tmp_path_factory.mktemp("runs") / "run")[0], "cpu")


def with_spacing(mm):
    def write(folder, case_id):
        write_case(folder, case_id, shape=SHAPE, affine=np.diag([-mm, -mm, mm, 1]), label=False)

    return write


def with_images(change, names=IMAGES):
    """A case of which some images are changed."""

    def write(folder, case_id):
        target = write_case(folder, case_id, shape=SHAPE, label=False)
        for name in names:
            path = target / f"{case_id}_{name}.nii.gz"
            image = nibabel.load(path)
            changed = change(np.asanyarray(image.dataobj))
            nibabel.save(nibabel.Nifti1Image(changed, image.affine), path)

    return write


def single_voxel(image):
    out = np.zeros_like(image)
    out[16, 16, 10] = 300
    return out


def one_slice_filled(image):
    out = np.zeros_like(image)
    out[:, :, 10] = image[:, :, 10]
    return out


def one_slice_in_all(folder, case_id):
    images, _ = tumour_case(SHAPE, 0)
    target = folder / case_id
    target.mkdir(parents=True)
    for image, name in zip(images, IMAGES, strict=True):
        flat = nibabel.Nifti1Image(image[:, :, 10:11], np.eye(4))
        nibabel.save(flat, target / f"{case_id}_{name}.nii.gz")


BAD = {
    "metres": (with_spacing(0.001), "its voxels are"),
    "microns": (with_spacing(1000.0), "its voxels are"),
    "spacing_001": (with_spacing(0.01), "its voxels are"),
    "spacing_500": (with_spacing(500.0), "its voxels are"),
    "constant": (with_images(lambda image: np.full_like(image, 7)), "is constant"),
    "one_constant": (with_images(lambda image: np.full_like(image, 7), ["t2"]), "is constant"),
    "single_voxel": (with_images(single_voxel), "nearly constant"),
    "masks": (with_images(lambda image: (image > 0).astype(np.uint8)), "is a mask"),
    "copies": (with_images(lambda _: tumour_case(SHAPE, 0)[0][0]), "one image, voxel by voxel"),
    "one_slice_filled": (with_images(one_slice_filled), None),
    "one_slice_in_all": (one_slice_in_all, None),
    "float": (with_images(lambda image: (image / 7 - 3).astype(np.float32)), None),
}
GOOD = ("a_good", "z_good")


@pytest.fixture(scope="module")
def predicted(predictor, tmp_path_factory):
    """(cases by id, output folder, exit code, stderr) of one `predict` over all of them."""
    home = tmp_path_factory.mktemp("bad")
    for name in GOOD:
        write_case(home / "data", name, shape=SHAPE, label=False)
    for name, (write, _) in BAD.items():
        write(home / "data", name)
    outputs = Outputs(home / "out", overlay=True, uncertainty=True, page=True)
    code = run_prediction(predictor, home / "data", "auto", outputs, ["run"], as_json=False)
    cases = {case.id: case for case in list_cases(home / "data", "mixed")}
    return cases, home / "out", code


@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_is_one_line_with_the_fix_and_check_predict_and_train_agree(
    predicted, tmp_path, name
):
    cases, output, _ = predicted
    _, message = BAD[name]
    record = json.loads((output / "predictions.json").read_text())
    (entry,) = [entry for entry in record["cases"] if entry["case"] == name]
    errors = [f.text for f in check_case(cases[name]).findings if f.severity == ERROR]
    if message is None:
        assert not errors and entry["state"] == DONE
        prepare_cases([cases[name]], tmp_path / "cache", DataConfig())
        return
    assert entry["state"] == FAILED and errors
    assert entry["error"].startswith(f"{name}: ") and message in entry["error"]
    assert not (output / f"{name}.nii.gz").exists()
    with pytest.raises(UserError, match=f"^{name}: .*{message}"):
        prepare_cases([cases[name]], tmp_path / "cache", DataConfig())


def test_the_others_are_predicted_and_the_record_is_complete(predicted):
    cases, output, code = predicted
    record = json.loads((output / "predictions.json").read_text())
    assert [entry["case"] for entry in record["cases"]] == sorted(cases)
    assert all((output / f"{name}.nii.gz").exists() for name in GOOD)
    assert code == 2 and not (output / LOG).exists(), "the files explain every failure"
    (entry,) = [entry for entry in record["cases"] if entry["case"] == "float"]
    assert any("the background is not 0" in note for note in entry["notes"])


@pytest.fixture
def three(tmp_path):
    for name in ("A", "B", "C"):
        write_case(tmp_path / "data", name, shape=SHAPE, label=False)
    return tmp_path / "data"


def raises_for_b(error, case_of):
    """Wrap a function so that it raises for the case B."""

    def wrap(original):
        def wrapped(*args, **options):
            if case_of(*args) == "B":
                raise error
            return original(*args, **options)

        return wrapped

    return wrap


STAGES = {"read_scan": lambda case: case.id, "_write": lambda predictor, case, *rest: case.id}
ERRORS = (
    IndexError("index 0 is out of bounds"),
    MemoryError("Unable to allocate 715. TiB"),
    RuntimeError("CUDA error: an illegal memory access"),
    torch.OutOfMemoryError("CUDA out of memory"),
    ZeroDivisionError(),
    OSError(5, "Input/output error"),
    AssertionError("a line\nand another"),
)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_case_raises_the_others_go_on(
    predictor, three, tmp_path, monkeypatch, capsys, stage, error
):
    wrap = raises_for_b(error, STAGES[stage])
    monkeypatch.setattr(pipeline, stage, wrap(getattr(pipeline, stage)))
    outputs = Outputs(tmp_path / "out")
    assert run_prediction(predictor, three, "auto", outputs, ["run"], as_json=False) == 1
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    states = {entry["case"]: entry["state"] for entry in record["cases"]}
    assert states == {"A": DONE, "B": FAILED, "C": DONE}
    printed = capsys.readouterr().err
    assert f"error: B: not predicted ({type(error).__name__}" in printed
    assert "Traceback" not in printed
    log = (tmp_path / "out" / LOG).read_text()
    assert re.match(r"B\nTraceback", log) and type(error).__name__ in log


def test_what_the_device_raises_ends_its_case_alone(predictor, three, tmp_path, monkeypatch):
    calls = iter(range(9))
    analyse = predictor.analyse

    def sometimes(*args, **options):
        if next(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return analyse(*args, **options)

    monkeypatch.setattr(predictor, "analyse", sometimes)
    outcomes = list(predict_cases(predictor, list_cases(three), Outputs(tmp_path / "out")))
    assert [outcome.state for outcome in outcomes] == [DONE, FAILED, DONE]


def test_an_interrupt_ends_all(predictor, three, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "analyse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(predict_cases(predictor, list_cases(three), Outputs(tmp_path / "out")))


def test_the_log_of_an_earlier_prediction_is_gone(predictor, three, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOG).write_text("old")
    list(predict_cases(predictor, list_cases(three), Outputs(tmp_path / "out")))
    assert not (tmp_path / "out" / LOG).exists()


def test_skipped_cases_are_named(predictor, three, tmp_path, capsys):
    outputs = Outputs(tmp_path / "out", skip_existing=True)
    run_prediction(predictor, three, "auto", outputs, ["run"], as_json=False)
    (tmp_path / "out" / "B.nii.gz").unlink()
    capsys.readouterr()
    run_prediction(predictor, three, "auto", outputs, ["run"], as_json=False)
    assert "note: 2 of 3 cases are skipped, their files are all there: A, C" in (
        capsys.readouterr().err
    )


CHANGES = {
    "z-scored": lambda image: ((image - image.mean()) / image.std()).astype(np.float32),
    "-1 outside": lambda image: np.where(image == 0, -1, image).astype(np.float32),
    "moved": lambda image: (image - 300).astype(np.int16),
    "scaled": lambda image: (0.01 * image).astype(np.float32),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_prediction_does_not_depend_on_what_lies_outside_the_brain(predictor, tmp_path, name):
    write_case(tmp_path / "original", "X", shape=SHAPE, label=False)
    with_images(CHANGES[name])(tmp_path / "changed", "X")
    expected, result = (
        predictor.probabilities(read_scan(list_cases(tmp_path / folder)[0]))
        for folder in ("original", "changed")
    )
    assert expected.std() > 0.01 and torch.allclose(result, expected, atol=5e-3)
    labels = [likeliest.argmax(0) for likeliest in (expected, result)]
    assert (labels[0] != labels[1]).float().mean() < 1e-3


def test_a_full_disk_ends_the_prediction_in_one_line_and_skip_existing_goes_on(
    predictor, three, tmp_path
):
    whole = Outputs(tmp_path / "whole", probabilities=True)
    run_prediction(predictor, three, "auto", whole, ["run"], as_json=False)
    of_a_case = sum(path.stat().st_size for path in whole.files("A", 1).values())
    with small_disk(tmp_path / "disk", f"{of_a_case * 2 // 1024}k") as disk:
        outputs = Outputs(disk.folder / "out", probabilities=True)
        with pytest.raises(UserError, match=r"nii.gz: the disk is full .* with --skip-existing"):
            run_prediction(predictor, three, "auto", outputs, ["run"], as_json=False)
        assert outputs.files("A", 1)["labels"].exists(), "what was finished stays"
        assert not list(disk.folder.rglob("*.part"))
        disk.remount("size=40m")
        again = replace(outputs, skip_existing=True)
        assert run_prediction(predictor, three, "auto", again, ["run"], as_json=False) == 0
        for case in "ABC":
            for kind, path in whole.files(case, 1).items():
                assert outputs.files(case, 1)[kind].read_bytes() == path.read_bytes()
