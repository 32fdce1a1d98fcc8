"""nnU-Net gets the folds of our studies; nnU-Net itself is not needed here."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from segmamba.data.cases import find_cases, list_cases
from segmamba.data.phantom import write_phantom
from segmamba.evaluation.evaluate import evaluate
from tests.benchmarks.test_figures import FOLDER

PARTS = ("figures", "train_run", "nnunet_cases", "nnunet_folds")


@pytest.fixture
def benchmark(monkeypatch) -> Iterator[ModuleType]:
    """The script, which imports its neighbours by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("nnunet_folds")
    for name in PARTS:
        sys.modules.pop(name, None)


@pytest.fixture
def options(tmp_path):
    """The options of two folds of six small phantoms."""
    write_phantom(tmp_path / "data", cases=6, size=(48, 48, 48), seed=0)
    return argparse.Namespace(
        data=tmp_path / "data",
        labels="mixed",
        preset="demo",
        folds=2,
        seconds=10.0,
        seed=0,
        patch=None,
        batch_size=None,
        output=tmp_path / "output",
    )


def test_the_folds_test_every_case_once_and_learn_from_none_of_a_test_set(benchmark, options):
    found, folds = benchmark.study_folds(options)
    tested = [case for fold in folds for case in fold["test"]]
    assert sorted(tested) == sorted(case.id for case in found.labelled)
    for fold in folds:
        assert fold["train"] and fold["val"]
        assert len({*fold["train"], *fold["val"], *fold["test"]}) == len(found.labelled)


def test_regions_are_declared_so_that_nnunet_writes_our_classes(benchmark, options):
    cases = find_cases(options.data)
    labels = sys.modules["nnunet_cases"].region_labels(cases[0].label_set)
    assert labels["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
    classes = np.zeros(4, int)  # as nnU-Net makes classes of regions: a later one overwrites
    regions = list(labels["labels"].values())[1:]
    for numbers, number in zip(regions, labels["regions_class_order"], strict=True):
        classes[numbers] = number
    assert list(classes) == [0, 1, 2, 3]


def test_nnunets_labels_as_predictions_score_without_a_fault(benchmark, options, tmp_path):
    cases, raw = find_cases(options.data)[:1], tmp_path / "raw"
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    sys.modules["nnunet_cases"].write_raw_case(cases[0], raw)
    (raw / "labelsTr" / "dataset.json").write_text(json.dumps(benchmark.dataset_json(cases)))
    scored = evaluate(raw / "labelsTr", options.data, labels="mixed", missing="skip")
    assert {row["dice"] for row in scored.rows} == {1.0}


def test_the_datalist_names_the_images_of_the_cases(benchmark, options, tmp_path):
    cases = find_cases(options.data)[1:3]
    (tmp_path / "list.json").write_text(json.dumps(benchmark.datalist(cases)))
    listed = list_cases(tmp_path / "list.json", "mixed")
    assert [(case.id, case.images) for case in listed] == [(c.id, c.images) for c in cases]


def test_other_settings_are_refused_in_the_same_output(benchmark, options):
    options.output.mkdir()
    benchmark.check_settings(options)
    benchmark.check_settings(options)
    options.seconds = 20.0
    with pytest.raises(SystemExit, match="begun with other seconds; give another"):
        benchmark.check_settings(options)


def test_without_nnunet_one_line_says_what_to_install(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nnunet_folds.py", "--data=d", "--seconds=1", "--output=o"])
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        benchmark.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "nnU-Net is not installed: pip install nnunetv2\n"


def test_a_trial_of_another_fold_or_of_other_data_is_refused(benchmark, tmp_path):
    kept = {"data": {"source": str(tmp_path), "fold": 1, "folds": 5}}
    (tmp_path / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    benchmark.check_fold(tmp_path, 1, 5, tmp_path)
    for number, folds, data in ((0, 5, tmp_path), (1, 4, tmp_path), (1, 5, tmp_path / "other")):
        with pytest.raises(SystemExit, match="is of fold 1 of 5"):
            benchmark.check_fold(tmp_path, number, folds, data)
