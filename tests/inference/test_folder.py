"""Many cases from files to files, as a pipeline."""

import gzip
import json
import os
import threading
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segmamba.commands.predict import run_prediction
from segmamba.data.cases import list_cases
from segmamba.data.labels import MODALITIES
from segmamba.data.volumes import read_scan, read_volume
from segmamba.evaluation.prediction_page import write_prediction_page
from segmamba.inference.folder import predict_cases
from segmamba.inference.outputs import DONE, FAILED, SKIPPED, Outputs
from segmamba.inference.predictor import load_predictor
from segmamba.inference.record import write_record
from tests.conftest import NEW_NAMES, write_case
from tests.inference.conftest import write_run

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.1, 0.05, -0.1)
    @ np.array([[0, 0, -1.2], [1.0, 0, 0], [0, -1.0, 0]]),
    (3, 4, 5),
)


@pytest.fixture
def data(tmp_path):
    """Three unlabelled cases of three sizes and directions."""
    write_case(tmp_path / "data", "A", shape=(40, 44, 24), label=False)
    write_case(tmp_path / "data", "B", shape=(30, 36, 44), affine=OBLIQUE, label=False, seed=1)
    write_case(
        tmp_path / "data",
        "BraTS-GLI-00000-000",
        shape=(44, 40, 28),
        names=NEW_NAMES,
        label=False,
        seed=2,
    )
    return tmp_path / "data"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return load_predictor([write_run(home / f"run{seed}", seed)[0] for seed in range(2)], "cpu")


def outcomes_of(predictor, data, outputs):
    return {o.case: o for o in predict_cases(predictor, list_cases(data, "mixed"), outputs)}


def test_every_case_lies_on_its_own_grid_in_its_own_convention(predictor, data, tmp_path):
    outcomes = outcomes_of(predictor, data, Outputs(tmp_path / "out"))
    assert list(outcomes) == ["A", "B", "BraTS-GLI-00000-000"] and {
        o.state for o in outcomes.values()
    } == {DONE}
    for case in list_cases(data, "mixed"):
        written, source = (
            nibabel.load(tmp_path / "out" / f"{case.id}.nii.gz"),
            nibabel.load(case.images["T1ce"]),
        )
        assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
        canonical, _, _ = read_volume(tmp_path / "out" / f"{case.id}.nii.gz")
        expected = predictor.predict(read_scan(case))
        assert np.array_equal(
            canonical, np.where(expected == 3, 4 if case.convention == "brats2018" else 3, expected)
        )
        assert outcomes[case.id].volumes_ml["WT"] == pytest.approx(
            (expected > 0).sum() * np.prod(nibabel.affines.voxel_sizes(source.affine)) / 1000
        )


def test_a_stated_convention_holds_for_all(predictor, data, tmp_path):
    outcomes_of(predictor, data, Outputs(tmp_path / "out", labels="msd"))
    written, _, _ = read_volume(tmp_path / "out" / "A.nii.gz")
    expected = predictor.predict(read_scan(list_cases(data, "mixed")[0]))
    assert np.array_equal(written, np.array([0, 2, 1, 3], np.uint8)[expected])


def corrupt_voxels(data):
    path = data / "B" / "B_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def remove_modality(data):
    (data / "B" / "B_flair.nii.gz").unlink()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [(corrupt_voxels, "B_t2.nii.gz: damaged"), (remove_modality, "modality FLAIR is missing")],
)
def test_a_bad_case_fails_alone_and_leaves_no_file(predictor, data, tmp_path, break_it, message):
    break_it(data)
    outcomes = outcomes_of(
        predictor, data, Outputs(tmp_path / "out", probabilities=True, overlay=True)
    )
    assert {case: o.state for case, o in outcomes.items()} == {
        "A": DONE,
        "B": FAILED,
        "BraTS-GLI-00000-000": DONE,
    }
    assert outcomes["B"].error.startswith("B: ") and message in outcomes["B"].error
    assert not [
        path for path in (tmp_path / "out").rglob("*") if path.name.startswith(("B.", ".B"))
    ]


def test_labels_are_neither_needed_nor_read(predictor, data, tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.full((40, 44, 24), 77, np.uint8), np.eye(4)),
        data / "A" / "A_seg.nii.gz",
    )
    assert outcomes_of(predictor, data, Outputs(tmp_path / "out"))["A"].state == DONE


def test_cases_whose_files_are_all_there_are_left(predictor, data, tmp_path):
    plain = Outputs(tmp_path / "out", skip_existing=True)
    outcomes_of(predictor, data, plain)
    (tmp_path / "out" / "B.nii.gz").unlink()
    (tmp_path / "out" / "A.nii.gz").write_bytes(b"mine")
    assert {c: o.state for c, o in outcomes_of(predictor, data, plain).items()} == {
        "A": SKIPPED,
        "B": DONE,
        "BraTS-GLI-00000-000": SKIPPED,
    }
    assert (tmp_path / "out" / "A.nii.gz").read_bytes() == b"mine"
    more = Outputs(tmp_path / "out", skip_existing=True, uncertainty=True)
    assert {o.state for o in outcomes_of(predictor, data, more).values()} == {DONE}, (
        "the maps were not there"
    )


def test_maps_are_those_of_the_predictor(predictor, data, tmp_path):
    outcomes_of(predictor, data, Outputs(tmp_path / "out", probabilities=True, uncertainty=True))
    case = list_cases(data, "mixed")[1]
    written = nibabel.load(tmp_path / "out" / "probabilities" / "B.nii.gz")
    canonical = nibabel.as_closest_canonical(written).get_fdata()
    expected = predictor.probabilities(read_scan(case)).movedim(0, -1).numpy()
    assert np.array_equal(written.affine, nibabel.load(case.images["T1ce"]).affine)
    assert np.allclose(canonical, expected, atol=1e-5)
    entropy, disagreement = (
        nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / kind / "B.nii.gz")).get_fdata()
        for kind in ("entropy", "disagreement")
    )
    assert np.allclose(
        entropy, -(expected * np.log(expected.clip(1e-9))).sum(-1) / np.log(4), atol=1e-4
    )
    assert 0 < disagreement.max() <= 1 and (disagreement <= entropy + 1e-4).all()


def test_the_page_shows_every_case_in_one_file_and_names_the_bad_one(predictor, data, tmp_path):
    remove_modality(data)
    outputs = Outputs(tmp_path / "out", overlay=True, page=True, uncertainty=True)
    cases = list_cases(data, "mixed")
    outcomes = list(predict_cases(predictor, cases, outputs))
    record = write_record(predictor, outcomes, outputs, ["run0", "run1"])
    page = write_prediction_page(
        outputs, cases, outcomes, predictor.summary, predictor.labels, phantoms_only=True
    ).read_text()
    assert (
        page.count("data:image/png;base64,") == 2
        and "1 failed" in page
        and "modality FLAIR is missing" in page
    )
    assert 'src="http' not in page and "href=" not in page and "embedded phantoms only" in page
    assert json.loads(json.dumps(record)) == json.loads(
        (tmp_path / "out" / "predictions.json").read_text()
    )
    assert {case["case"]: case["state"] for case in record["cases"]} == {
        "A": DONE,
        "B": FAILED,
        "BraTS-GLI-00000-000": DONE,
    }
    assert (tmp_path / "out" / "overlays" / "A.png").read_bytes().startswith(b"\x89PNG")


def test_reading_runs_ahead_of_predicting(predictor, data, tmp_path, monkeypatch):
    """The first prediction waits until another case is being read.

    In a serial pipeline it would wait for ever.
    """
    monkeypatch.setattr("segmamba.inference.folder.READERS", 2)
    reads, second_read = [], threading.Event()

    def note(scan):
        reads.append(scan)
        if len(reads) == 2:
            second_read.set()
        return original_prepare(scan)

    def wait(prepared, **maps):
        assert second_read.wait(60)
        return original_analyse(prepared, **maps)

    original_prepare, original_analyse = predictor.prepare, predictor.analyse
    monkeypatch.setattr(predictor, "prepare", note)
    monkeypatch.setattr(predictor, "analyse", wait)
    assert {o.state for o in outcomes_of(predictor, data, Outputs(tmp_path / "out")).values()} == {
        DONE
    }


def test_a_stop_leaves_only_whole_files(predictor, data, tmp_path):
    running = predict_cases(predictor, list_cases(data, "mixed"), Outputs(tmp_path / "out"))
    next(running)
    running.close()
    for path in (tmp_path / "out").iterdir():
        assert not path.name.startswith(".") and gzip.decompress(path.read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(
    "SEGMAMBA_BRATS" not in os.environ, reason="SEGMAMBA_BRATS names no folder of real cases"
)
def test_real_cases_come_back_on_their_own_grid_with_their_own_values(tmp_path):
    folder, _ = write_run(
        tmp_path / "run", **{"data.spacing_mm": 3.0, "data.patch_size": (48, 48, 32)}
    )
    cases = list_cases(Path(os.environ["SEGMAMBA_BRATS"]), "mixed")
    assert {
        o.state
        for o in predict_cases(load_predictor(folder, "cpu"), cases, Outputs(tmp_path / "out"))
    } == {DONE}
    for case in cases:
        written, source = (
            nibabel.load(tmp_path / "out" / f"{case.id}.nii.gz"),
            nibabel.load(case.images["T1ce"]),
        )
        assert written.shape == source.shape == (240, 240, 155) and np.array_equal(
            written.affine, source.affine
        )
        assert written.get_data_dtype() == np.uint8 and set(np.unique(written.dataobj)) <= {
            0,
            1,
            2,
            4 if case.convention == "brats2018" else 3,
        }
        assert not np.asanyarray(written.dataobj)[:5].any(), (
            "the first slices lie far outside the brain"
        )
        for path in [case.label] if case.label else []:
            truth = nibabel.load(path)
            assert truth.shape == written.shape and np.array_equal(truth.affine, written.affine)


def test_the_command_says_which_value_of_the_convention_is_never_written(
    predictor, tmp_path, capsys
):
    write_case(
        tmp_path / "post", "BraTS-GLI-00005-100", shape=(40, 44, 24), names=NEW_NAMES, label=False
    )
    code = run_prediction(
        predictor,
        tmp_path / "post",
        "auto",
        Outputs(tmp_path / "out"),
        ["run", "run"],
        as_json=False,
    )
    assert (
        code == 0
        and "note: labels brats2024: RC is never written, for the network predicts NCR, ED, ET"
        in capsys.readouterr().err
    )


def test_ids_that_leave_the_output_folder_fail_alone_and_strays_are_named(
    predictor, data, tmp_path, capsys
):
    images = [str(data / "A" / f"A_{part}.nii.gz") for part in ("t1", "t1ce", "t2", "flair")]
    others = [str(path) for path in sorted((data / "BraTS-GLI-00000-000").iterdir())]
    path = tmp_path / "list.json"
    entries = [{"id": "good", "image": images}, {"id": "../../escaped", "image": others}]
    path.write_text(json.dumps({"testing": entries}))
    before = {p for p in tmp_path.rglob("*") if "escaped" in p.name}
    outputs = Outputs(tmp_path / "deep" / "out")
    code = run_prediction(predictor, path, "auto", outputs, ["run", "run"], as_json=False)
    said = capsys.readouterr().err
    assert code != 0 and "'../../escaped'" in said and "rename the case" in said
    assert {p for p in tmp_path.rglob("*escaped*") if outputs.folder not in p.parents} == before
    record = json.loads((outputs.folder / "predictions.json").read_text())
    assert sorted(case["state"] for case in record["cases"]) == [DONE, FAILED]
    assert (outputs.folder / "good.nii.gz").is_file()


def test_the_command_names_images_that_no_case_uses(predictor, data, tmp_path, capsys):
    (data / "A" / "A_t1.nii.gz").rename(data / "A" / "A_swi.nii.gz")
    run_prediction(
        predictor, data, "auto", Outputs(tmp_path / "out"), ["run", "run"], as_json=False
    )
    assert "that no case uses: 1 (A/A_swi.nii.gz)" in capsys.readouterr().err


def test_other_names_are_predicted_by_templates_without_a_convention_of_their_own(
    predictor, tmp_path, capsys
):
    folder = write_case(tmp_path / "data", "P", shape=(40, 44, 24), label=False)
    for part in ("t1", "t1ce", "t2", "flair"):
        (folder / f"P_{part}.nii.gz").rename(folder / f"{part}.nii.gz")
    names = tuple(
        f"{modality}={{case}}/{part}.nii.gz"
        for modality, part in zip(MODALITIES, ("t1", "t1ce", "t2", "flair"), strict=True)
    )
    code = run_prediction(
        predictor,
        tmp_path / "data",
        "auto",
        Outputs(tmp_path / "out"),
        ["run", "run"],
        templates=names,
        as_json=False,
    )
    assert code == 0 and (tmp_path / "out" / "P.nii.gz").is_file()
    assert "predictions are written as brats2023" in capsys.readouterr().err
