"""The fingerprint of a few made cases whose numbers are known."""

import json
import sys

import nibabel
import numpy as np
import pytest

from segmamba.cli import main
from segmamba.config import DataConfig
from segmamba.data.cases import find_cases
from segmamba.data.splits import split_cases
from segmamba.data.strata import SourceCase
from segmamba.data.summary import summarise
from segmamba.errors import UserError
from segmamba.pictures.data_summary import write_summary
from tests.conftest import tumour_case, write_case


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cases at 1 mm, one at 2 mm without ET, one without a segmentation, one unreadable."""
    data = tmp_path_factory.mktemp("summary") / "data"
    for number, case_id in enumerate(("A", "B")):
        write_case(data, case_id, seed=number)
    plain = write_case(data, "C", affine=np.diag([-2.0, -2, 2, 1]), seed=2)
    image = nibabel.load(plain / "C_seg.nii.gz")
    label = np.asanyarray(image.dataobj).copy()
    label[label == 4] = 1
    nibabel.save(nibabel.Nifti1Image(label, image.affine), plain / "C_seg.nii.gz")
    write_case(data, "D", label=False)
    (write_case(data, "E") / "E_t2.nii.gz").write_bytes(b"")
    return data


def test_the_fingerprint_has_the_numbers_of_the_cases(folder):
    fingerprint, measured = summarise(folder)
    assert fingerprint["cases"] == fingerprint["patients"] == 5
    assert fingerprint["labelled"] == 3 and fingerprint["unreadable"] == ["E"]
    assert fingerprint["shapes"] == {"48 x 48 x 32": 4}
    assert fingerprint["spacings_mm"] == {"1 x 1 x 1": 3, "2 x 2 x 2": 1}
    assert fingerprint["brain_mm"]["x"] == {"min": 44.0, "median": 44.0, "max": 88.0}
    assert fingerprint["cases_without"] == {"ET": ["C"], "TC": [], "WT": []}
    # Nested boxes of 12, 8 and 4 voxels a side; eight times the volume at 2 mm.
    volumes_ml = fingerprint["volumes_ml"]
    assert volumes_ml["WT"] == pytest.approx({"min": 1.728, "median": 1.728, "max": 13.824})
    assert volumes_ml["TC"]["min"] == pytest.approx(0.512)
    assert volumes_ml["ET"]["max"] == pytest.approx(0.448)
    images, _ = tumour_case((48, 48, 32), 0)
    values = images[1][images[1] != 0]
    first = measured[0].intensities["T1ce"]
    assert first["mean"] == pytest.approx(values.mean()) and first["std"] == pytest.approx(
        values.std()
    )
    assert first["p0.5"] == pytest.approx(np.quantile(values, 0.005)) and first[
        "median"
    ] == np.median(values)


def test_json_and_pictures_are_written_and_no_temporary_file_stays(folder, tmp_path):
    paths = write_summary(tmp_path / "out", *summarise(folder))
    assert {path.name for path in paths} == {
        "summary.json",
        "volumes.png",
        "intensities.png",
        "grids.png",
    }
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths if path.suffix == ".png")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cases_without"]["ET"] == [
        "C"
    ]


@pytest.mark.parametrize("kind", ["unlabelled", "all segmentations empty"])
def test_data_without_tumours_is_summarised_too(tmp_path, kind):
    case = write_case(tmp_path / "data", "A", label=kind != "unlabelled")
    if kind != "unlabelled":
        nibabel.save(
            nibabel.Nifti1Image(np.zeros((48, 48, 32), np.uint8), np.diag([-1.0, -1, 1, 1])),
            case / "A_seg.nii.gz",
        )
    names = {path.name for path in write_summary(tmp_path / "out", *summarise(tmp_path / "data"))}
    assert names == {"summary.json", "intensities.png", "grids.png"}


def test_data_of_which_nothing_can_be_read_is_the_users_mistake(tmp_path):
    (write_case(tmp_path, "A") / "A_t2.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 cases can be read; `segmamba data check"):
        summarise(tmp_path)


@pytest.fixture
def segmamba(monkeypatch, capsys):
    """Runs `segmamba data ARGUMENTS` in a folder; gives (exit code, what it printed)."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["segmamba", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr()

    return run


def test_the_command_prints_what_it_writes_within_100_columns(folder, tmp_path, segmamba):
    code, shown = segmamba("summary", folder, "--output", "out", cwd=tmp_path)
    assert code == 0, shown.err
    assert "5 cases of 5 patients, 3 labelled; labels brats2018" in shown.out
    assert "out/volumes.png" in shown.out
    assert "left out  1 cases that cannot be read, E for one" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100
    _, shown = segmamba("summary", folder, "--output", "out", "--json", cwd=tmp_path)
    assert json.loads(shown.out) == json.loads((tmp_path / "out" / "summary.json").read_text())


def test_folds_are_written_for_nnunet_and_for_us(cases_folder, segmamba):
    code, shown = segmamba(
        "splits", "data", "--folds", "3", "--output", "splits_final.json", cwd=cases_folder.parent
    )
    assert code == 0, shown.err
    cases = [SourceCase(case) for case in find_cases(cases_folder)]
    tested = [
        split_cases(
            cases, DataConfig(splits_file=str(cases_folder.parent / "splits_final.json"), fold=f)
        ).test
        for f in range(3)
    ]
    assert sorted(case.id for test in tested for case in test) == [case.id for case in cases]
    code, shown = segmamba("splits", "data", "--folds", "1", cwd=cases_folder.parent)
    assert code == 2 and "data.folds = 1" in shown.err


def test_a_summary_says_what_it_made_of_backgrounds_and_units(tmp_path):
    folder = write_case(tmp_path / "data", "A")
    for path in folder.glob("A_[tf]*.nii.gz"):
        image = nibabel.load(path)
        moved = nibabel.Nifti1Image(np.asanyarray(image.dataobj) - 1000, image.affine)
        nibabel.save(moved, path)
    fingerprint, _ = summarise(tmp_path / "data")
    notes = " | ".join(fingerprint["notes"])
    assert "the background is not 0 (T1 -1000" in notes
    assert "intensities are measured from the background" in notes
    assert 200 < fingerprint["intensities"]["T1"]["median"]["min"] < 400
