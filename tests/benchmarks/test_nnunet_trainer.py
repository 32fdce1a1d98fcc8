"""The benchmark of nnU-Net's trainer gives it the same cases; nnU-Net itself is not needed here."""

import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType

import nibabel
import numpy as np
import pytest

from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from tests.benchmarks.test_figures import FOLDER
from tests.conftest import write_case

PARTS = ("figures", "train_run", "nnunet_cases", "nnunet_trainer")


@pytest.fixture
def benchmark(monkeypatch) -> Iterator[ModuleType]:
    """The script, which imports its neighbours by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("nnunet_trainer")
    yield module
    for name in PARTS:
        sys.modules.pop(name, None)


@pytest.fixture
def raw(benchmark, tmp_path):
    """A case whose ET is 4 in its file, and nnU-Net's folder of it."""
    write_case(tmp_path / "data", "BraTS20_Training_001", shape=(20, 18, 16))
    cases, folder = find_cases(tmp_path / "data"), tmp_path / benchmark.NAME
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    sys.modules["nnunet_cases"].write_raw_case(cases[0], folder)
    (folder / "dataset.json").write_text(
        json.dumps(sys.modules["nnunet_cases"].dataset_json(cases))
    )
    return cases[0], folder


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


def test_channels_are_numbered_in_the_order_of_the_modalities(raw):
    case, folder = raw
    written = sorted((folder / "imagesTr").iterdir())
    assert [path.name for path in written] == [f"{case.id}_{n:04d}.nii" for n in range(4)]
    for path, image in zip(written, read_scan(case).image, strict=True):
        assert np.array_equal(voxels(path), image)
    names = json.loads((folder / "dataset.json").read_text())["channel_names"]
    assert names == {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}


def test_labels_are_consecutive_whatever_the_files_say(raw):
    case, folder = raw
    assert set(np.unique(voxels(case.label))) == {0, 1, 2, 4}
    label = voxels(folder / "labelsTr" / f"{case.id}.nii")
    assert label.dtype == np.uint8 and set(np.unique(label)) == {0, 1, 2, 3}
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    assert (content["numTraining"], content["file_ending"]) == (1, ".nii")


def test_the_converted_case_reads_as_the_same_case(raw):
    case, folder = raw
    before, after = read_scan(case), read_scan(find_cases(folder)[0])
    assert np.array_equal(before.image, after.image)
    assert np.array_equal(before.label, after.label)
    assert np.allclose(before.affine, after.affine)


def test_without_nnunet_one_line_says_what_to_install(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nnunet_trainer.py"])
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "nnU-Net is not installed: pip install nnunetv2\n"


@pytest.mark.parametrize("wrong", ["--cases 4", "--epochs 1"])
def test_too_few_cases_or_epochs_are_refused_before_anything_is_written(
    benchmark, monkeypatch, capsys, wrong
):
    monkeypatch.setattr(sys, "argv", ["nnunet_trainer.py", *wrong.split()])
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2 and wrong.split()[0] in capsys.readouterr().err
